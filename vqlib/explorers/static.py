"""Explorers without Python: one HTML file that a browser opens offline."""
from vqlib.explorers.assets import as_data, script, style

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body class="vq-page">
<main>
<h1>{title}</h1>
<div id="explorers"></div>
<footer>{footer}</footer>
</main>
<script type="application/json" id="pages">{pages}</script>
<script type="module"{nonce}>
{script}
const pages = JSON.parse(document.getElementById("pages").textContent);
{start}
</script>
</body>
</html>
"""
NO_CLINIC = "Weights derived from HAM10000, CC BY-NC 4.0. Not for clinical use."


def page(explorers, title="Explorers", footer=NO_CLINIC) -> str:
    """The page of explorers that need no Python: codebook, and reconstruction of our own pictures.

    It holds all that it shows and loads nothing. Raises ValueError for other explorers, and for
    those that would put photographs into the file.
    """
    pages = [{"name": e.name, "title": e.title,
              "opening": {"about": e.about, **e.without_python()}} for e in explorers]
    return fill(title, footer, pages, "stillPage(document.getElementById('explorers'), pages);")


def fill(title: str, footer: str, pages: list, start: str, nonce="") -> str:
    """Title and footer are ours; pages are data and are never parsed as HTML."""
    return PAGE.format(title=title, footer=footer, style=style(), pages=as_data(pages),
                       script=script(), start=start, nonce=f' nonce="{nonce}"' if nonce else "")
