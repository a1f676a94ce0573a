-- What pandoc's writers lack: tables and figures in boxes of their own that scroll, links that lead
-- somewhere in each output, and alt texts in the PDF.

local html = FORMAT:match("html")

local function scrolling(content, label)
  return pandoc.Div(content, pandoc.Attr("", { "scroll" }, {
    { "tabindex", "0" }, { "role", "region" }, { "aria-label", label },
  }))
end

-- "Table 3" of "Table 3. Images and lesions ..."
local function label(caption)
  return pandoc.utils.stringify(caption.long):match("^(%a+.-%d+)%.") or "Table"
end

-- Markdown that a cell of a notebook returned
function RawBlock(raw)
  if raw.format ~= "markdown" then return nil end
  local options = pandoc.ReaderOptions({ columns = PANDOC_READER_OPTIONS.columns })
  -- as one block: of several only the first would be kept
  return pandoc.Div(pandoc.read(raw.text, "markdown", options).blocks:walk({ Table = Table }))
end

local function unbroken(t)              -- a page of the PDF holds a table of numbers whole
  return { pandoc.RawBlock("typst", "#block(breakable: false)["), t, pandoc.RawBlock("typst", "]") }
end

function Table(t)
  local sentences = t.colspecs[1][2]    -- only they have a width
  if not html then return not sentences and unbroken(t) or nil end
  local caption, name = t.caption.long, label(t.caption)
  t.caption = pandoc.Caption({})
  local box = pandoc.Div({ scrolling({ t }, name) }, pandoc.Attr("", { "table" }))
  if #caption > 0 then                  -- above the box: it stays in view while the table scrolls
    box.content:insert(1, pandoc.Div(caption, pandoc.Attr("", { "caption" })))
  end
  return box
end

function Figure(f)
  if not html then return nil end
  f.content = { scrolling(f.content, label(f.caption)) }
  return f
end

function Link(link)
  if link.target:match("^#") or link.target:match("^https?://") then return nil end
  local notebook = link.target:match("(0%d_[%w_]+)%.ipynb$")
    or link.target:match("(0%d_[%w_]+)%.html$")
  if html and notebook then
    link.target = notebook .. ".html"
    return link
  end
  return link.content                   -- files of the repository do not lie beside the pages
end

function Str(s)                           -- at the start of a cell typst takes these for a list
  if FORMAT == "typst" and (s.text == "+" or s.text == "-") then
    return pandoc.RawInline("typst", "\\" .. s.text)
  end
end

function Image(image)
  if FORMAT ~= "typst" then return nil end
  local alt = image.attributes.alt or pandoc.utils.stringify(image.caption)
  return pandoc.RawInline("typst", string.format("#fitted(%q, %q)", image.src, alt))
end

function Math(math)
  if FORMAT ~= "typst" then return nil end
  local set = pandoc.write(pandoc.Pandoc({ pandoc.Plain({ math }) }), "typst")
  local alt = string.format("%q", (math.text:gsub("%s+", " ")))
  return pandoc.RawInline("typst", "#[#set math.equation(alt: " .. alt .. ");" .. set .. "]")
end
