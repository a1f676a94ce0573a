"""The prior: a GPT over the whole grid of codes, drawn coarse to fine.

t codes in, t + 1 predictions out: row i of the output predicts code i from the codes before it.

Letters: B images, T = h*w codes per image, t of them given, K codes, C width, H heads,
c = C/H head width, G groups of heads that share keys and values.
"""
from dataclasses import dataclass
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlib import settings
from vqlib.backend.cpu import Linear


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of the whole-grid prior."""

    grid: int = 16              # cells per side: T = grid**2
    n_codes: int = 512          # K
    n_classes: int = 7
    width: int = 128            # C
    heads: int = 4              # H
    kv_heads: int = 1           # G: with 1, sampling reads 1/H of the keys and values
    layers: int = 6
    dropout: float = 0.1
    class_dropout: float = 0.1  # share of training images that lose their class, for guidance

    def __post_init__(self):
        settings.check(self)
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads, "
                             f"or those not of {self.kv_heads} kv_heads")


# neutral settings of `GPT.generate`: the model's own distribution
SAMPLING = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "first_top_p": 1.0, "guidance": 1.0}

# (row, column) offsets of a cell's neighbours, in steps of its lattice
NEIGHBOURS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1),
              (-2, 0), (0, -2), (0, 2), (2, 0)]


def coarse_to_fine(side: int) -> tuple[Tensor, Tensor]:
    """The generation order of a side x side grid, and the neighbours that each cell can see.

    The middle comes first, then lattices that halve their step. On each lattice the centres of
    four known cells come before the edges between them. What a lesion is and where it lies is
    settled by the first few codes; each later one fills a gap. When each cell comes, for side 8:

         1 32  8 33  2 34  9 35
        36 16 37 17 38 18 39 19
        10 40  4 41 11 42  5 43
        44 20 45 21 46 22 47 23
         3 48 12 49  0 50 13 51
        52 24 53 25 54 26 55 27
        14 56  6 57 15 58  7 59
        60 28 61 29 62 30 63 31

    Returns (T,) cells, row * side + column, in generation order, and (T, 12) when the cells around
    each (`NEIGHBOURS`) come, T where one is outside or later.
    """
    def spacing(i):                                              # of the coarsest lattice with i
        distance = abs(i - side // 2)
        return distance & -distance if distance else 2 * side    # largest power of two in it

    lattice = {(r, c): min(spacing(r), spacing(c)) for r in range(side) for c in range(side)}

    def by_lattice(cell):                                        # centres come before edges
        row, column = cell
        return -lattice[cell], spacing(row) != spacing(column), cell

    cells, T = sorted(lattice, key=by_lattice), side**2
    when = {cell: t for t, cell in enumerate(cells)}
    neighbours = []                                              # T rows of 12
    for t, (row, column) in enumerate(cells):
        size = lattice[row, column]
        around = [when.get((row + down * size, column + right * size), T)
                  for down, right in NEIGHBOURS]
        neighbours.append([other if other < t else T for other in around])
    order = [row * side + column for row, column in cells]
    return torch.tensor(order), torch.tensor(neighbours)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward net, each added to its input.

    Heads may share keys and values in groups (Ainslie et al. 2023; one group: Shazeer 2019).
    """

    def __init__(self, width, heads, dropout, kv_heads=None, activation=nn.GELU):
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads or heads, width // heads
        self.dropout = dropout
        inner = heads * self.head_width                          # 126 for 6 heads on width 128
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = Linear(width, inner + 2 * self.kv_heads * self.head_width, bias=False)
        self.out = Linear(inner, width)
        self.feed = nn.Sequential(Linear(width, 4 * width), activation(),
                                  Linear(4 * width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:                      # (B, t, C)
        q, k, v = self.project(x)
        # dropout inside the attention would leave its fast kernel: half the speed
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.add(x, y.transpose(1, 2).flatten(2))         # (B, H, t, c) -> (B, t, H*c)

    def step(self, x: Tensor, cache: Tensor, t: int) -> Tensor:  # (B, 1, C), (2, B, G, T, c)
        """`forward` of row t alone: keys and values of the rows before are in the cache."""
        B, H, G, c = len(x), self.heads, self.kv_heads, self.head_width
        q, *kv = self.project(x)                                 # (B, H, 1, c), (B, G, 1, c) twice
        cache[:, :, :, t : t + 1] = torch.stack(kv)
        keys, values = cache[:, :, :, : t + 1].flatten(1, 2)     # (B*G, t+1, c)
        q = q.reshape(B * G, H // G, c)
        # two thin products beat the fused kernel when there is one query
        scores = torch.baddbmm(x.new_zeros(()), q, keys.mT, beta=0, alpha=c**-0.5)
        y = torch.bmm(scores.softmax(-1), values)                # (B*G, H/G, c)
        return self.add(x, y.view(B, 1, -1))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, t, c), keys and values (B, G, t, c) of rows (B, t, C)."""
        heads = self.qkv(self.norm1(x)).unflatten(2, (-1, self.head_width)).transpose(1, 2)
        return heads.split([self.heads, self.kv_heads, self.kv_heads], 1)

    def add(self, x: Tensor, y: Tensor) -> Tensor:               # (B, t, C), (B, t, H*c)
        """The rest of the block, from what the attention found."""
        x = x + F.dropout(self.out(y), self.dropout, self.training)
        return x + self.feed(self.norm2(x))


def init_weights(model: nn.Module, layers: int) -> None:
    """GPT-2's: normal, std 0.02; layers that write to the residual stream / sqrt(2 * layers)."""
    for name, p in model.named_parameters():
        if p.dim() > 1:
            residual = name.endswith(("out.weight", "feed.2.weight"))
            nn.init.normal_(p, std=0.02 / (2 * layers) ** 0.5 if residual else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(p)


class GPT(nn.Module):
    """Class-conditional prior over the whole grid.

    What predicts a cell is the sum of embeddings of its place, the class, its neighbours that are
    known, and the code before it in generation order with its place. (Attention would have to find
    neighbours by their positions; giving them is cheaper.) Label `n_classes` means "any class".

    `forward` and `embed` take codes in generation order; `nats`, `loss` and `generate` in raster
    order, as an encoded image has them. Codes are int64.
    """

    def __init__(self, cfg: GPTConfig, seed=0):
        super().__init__()
        self.cfg = cfg
        order, neighbours = coarse_to_fine(cfg.grid)
        self.register_buffer("generation_order", order, persistent=False)           # (T,)
        self.register_buffer("neighbours", neighbours, persistent=False)            # (T, 12)
        direction = torch.arange(len(NEIGHBOURS)) * cfg.n_codes                     # (12,)
        self.register_buffer("direction", direction, persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.class_embedding = nn.Embedding(cfg.n_classes + 1, cfg.width)
            no_neighbour = len(NEIGHBOURS) * cfg.n_codes         # stands for a neighbour not there
            self.neighbour_embedding = nn.EmbeddingBag(
                no_neighbour + 1, cfg.width, mode="sum", padding_idx=no_neighbour)
            self.previous_embedding = nn.Embedding(cfg.n_codes, cfg.width)
            self.row = nn.Parameter(torch.empty(cfg.grid, 1, cfg.width))
            self.column = nn.Parameter(torch.empty(1, cfg.grid, cfg.width))
            self.previous_row = nn.Parameter(torch.empty(cfg.grid, 1, cfg.width))
            self.previous_column = nn.Parameter(torch.empty(1, cfg.grid, cfg.width))
            self.blocks = nn.ModuleList(Block(cfg.width, cfg.heads, cfg.dropout, cfg.kv_heads)
                                        for _ in range(cfg.layers))
            self.norm = nn.LayerNorm(cfg.width)
            self.head = Linear(cfg.width, cfg.n_codes, bias=False)
            init_weights(self, cfg.layers)

    def context(self, labels: Tensor) -> Tensor:                 # (B,) -> (B, T, C)
        """The part of the inputs that needs no code: class, own place, the previous code's place.

        Its rows follow the generation order.
        """
        order = self.generation_order
        own_place = (self.row + self.column).flatten(0, 1)[order]                   # (T, C)
        place = (self.previous_row + self.previous_column).flatten(0, 1)[order]     # (T, C)
        previous_place = F.pad(place[:-1], (0, 0, 1, 0))         # there is none at the first
        return self.class_embedding(labels)[:, None] + (own_place + previous_place)

    def embed(self, codes: Tensor, context: Tensor, first: int, n: int) -> Tensor:
        """Inputs (B, n, C) of predictions first..first+n-1.

        codes: (B, T+1) in generation order, -1 where there is none yet, as at T.
        context: (B, T, C).
        """
        near = codes[:, self.neighbours[first : first + n]]      # (B, n, 12)
        no_neighbour = self.neighbour_embedding.padding_idx
        near = torch.where(near < 0, no_neighbour, near + self.direction)
        x = self.neighbour_embedding(near.flatten(0, 1)).view(len(codes), n, -1)
        x = x + context[:, first : first + n]
        # the codes before are all known, but the very first prediction has none
        before = codes[:, max(first, 1) - 1 : first + n - 1].clamp_min(0)
        previous = self.previous_embedding(before)
        return x + (previous if first else F.pad(previous, (0, 0, 1, 0)))

    def forward(self, prefix: Tensor, labels: Tensor) -> Tensor:  # (B, t), t may be 0; (B,)
        """Logits (B, t+1, K): row i predicts the code of cell generation_order[i].

        Raises ValueError unless t < T.
        """
        t, T = prefix.shape[1], len(self.generation_order)
        if t >= T:
            raise ValueError(f"a prefix has at most {T - 1} codes of {T}, got {t}")
        codes = F.pad(prefix, (0, T + 1 - t), value=-1)          # (B, T+1)
        x = self.embed(codes, self.context(labels), 0, t + 1)    # (B, t+1, C)
        x = F.dropout(x, self.cfg.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def nats(self, codes: Tensor, labels: Tensor) -> Tensor:     # (B, T), (B,)
        """-log p of each code, (B, T); their sum is an image's negative log-likelihood in nats.

        Raises ValueError for codes of another grid.
        """
        if codes.shape[1] != len(self.generation_order):
            raise ValueError(f"the prior knows {len(self.generation_order)} codes an image, "
                             f"got {codes.shape[1]}")
        ordered = codes[:, self.generation_order]
        logits = self(ordered[:, :-1], labels)                   # (B, T, K)
        nats = F.cross_entropy(logits.flatten(0, 1), ordered.flatten(), reduction="none")
        return nats.view_as(ordered)[:, self.generation_order.argsort()]

    def loss(self, codes: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Mean nats per code of a training batch in which some classes are hidden.

        Draws exactly one number per image from `rng`, so that parts of a batch can go on where
        the part before stopped.
        """
        hide = torch.rand(len(labels), generator=rng) < self.cfg.class_dropout
        hide = hide.to(labels.device, non_blocking=True)
        return self.nats(codes, labels.masked_fill(hide, self.cfg.n_classes)).mean()

    @torch.no_grad()
    def generate(self, labels: Tensor, temperature=1.0, top_k=0, top_p=1.0, first_top_p=1.0,
                 guidance=1.0, known=None, keep=None, seed=0, progress=None) -> Tensor:
        """Draw codes (B, T) one after another, on the model's device.

        labels: (B,) in 0..n_classes, the last meaning any class.
        temperature > 0; top_k 0 and top_p 1 mean all codes.
        first_top_p: top_p of the first T/16 codes, which settle where the lesion lies: a rare code
            there cannot be mended later.
        guidance g: logits = unconditional + g * (conditional - unconditional) (Ho & Salimans 2022,
            equation 6 with g = 1 + w); 1 is off.
        known, keep: (B, T) codes and a bool mask for inpainting, both or neither: codes under the
            mask are kept. Codes drawn after them see them, codes drawn before do not.
        progress(t, T) is called after each code. The same seed gives the same codes.
        Raises ValueError for settings out of range.
        """
        for t, codes in self.growing(labels, temperature, top_k, top_p, first_top_p, guidance,
                                     known, keep, seed):
            if progress:
                progress(t, codes.shape[1])
        return codes

    @torch.no_grad()
    def growing(self, labels: Tensor, temperature=1.0, top_k=0, top_p=1.0, first_top_p=1.0,
                guidance=1.0, known=None, keep=None, seed=0):
        """`generate`, code after code: yields (t, codes) with the first t of (B, T) codes drawn.

        The others are -1. It is the same tensor each time.
        """
        device, T = self.head.weight.device, self.cfg.grid**2
        check_settings(self.cfg, labels, temperature, top_k, top_p, first_top_p, guidance, seed)
        if (known is None) != (keep is None):
            raise ValueError("inpainting needs both: known (codes) and keep (mask)")
        if keep is not None:
            check_known(known, keep, (len(labels), T), self.cfg.n_codes)
        rng, labels = torch.Generator().manual_seed(seed), labels.to(device)
        guided = guidance != 1
        any_class = torch.full_like(labels, self.cfg.n_classes)
        sampler = Sampler(self, torch.cat([labels, any_class]) if guided else labels)
        codes = torch.full((len(labels), T), -1, device=device)
        chosen = None                                            # (B,) at the cell before
        for t, cell in enumerate(self.generation_order.tolist()):
            logits = sampler.step(chosen.repeat(2) if guided and t else chosen)
            if guided:                                           # (2B, K) -> (B, K)
                conditional, unconditional = logits.chunk(2)
                logits = unconditional.lerp(conditional, guidance)
            nucleus = min(top_p, first_top_p) if t < T // 16 else top_p
            chosen = draw(logits, temperature, top_k, nucleus, rng).to(device)
            if keep is not None:
                kept, mask = known[:, cell].to(device), keep[:, cell].to(device)
                chosen = torch.where(mask, kept, chosen)
            codes[:, cell] = chosen
            yield t + 1, codes


class Sampler:
    """A prior's predictions, one cell after another, in the generation order.

    Keys and values of the rows before are cached, so that each step computes one row: the same
    logits as `GPT.forward`, without computing all rows again for each code.
    """

    @torch.no_grad()
    def __init__(self, gpt: GPT, labels: Tensor):                # (B,)
        self.gpt, self.t, T = gpt.eval(), 0, gpt.cfg.grid**2
        self.context = gpt.context(labels)                       # (B, T, C)
        self.codes = labels.new_full((len(labels), T + 1), -1)
        # a cache per layer: glibc keeps blocks of that size for the next call
        self.caches = [self.context.new_empty(2, len(labels), b.kv_heads, T, b.head_width)
                       for b in gpt.blocks]

    @torch.no_grad()
    def step(self, codes: Tensor | None = None) -> Tensor:       # (B,) -> (B, K)
        """Logits of the next cell; `codes` were chosen at the cell before, None at the first.

        Raises ValueError for codes at the first cell, none later, and after the last cell.
        """
        if (codes is None) != (self.t == 0) or self.t == self.context.shape[1]:
            raise ValueError(f"step {self.t} of {self.context.shape[1]} takes the codes of the "
                             "cell before: none at the first, some at all others")
        if codes is not None:
            self.codes[:, self.t - 1] = codes
        x = self.gpt.embed(self.codes, self.context, self.t, 1)  # (B, 1, C)
        for block, cache in zip(self.gpt.blocks, self.caches):
            x = block.step(x, cache, self.t)
        self.t += 1
        return self.gpt.head(self.gpt.norm(x[:, 0]))


def check_settings(cfg, labels, temperature, top_k, top_p, first_top_p=1.0, guidance=1.0,
                   seed=0) -> None:
    """Raises ValueError that names a setting of `generate` out of its range."""
    for name, value in {"top_k": top_k, "seed": seed}.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ValueError(f"{name} {value!r} must be a whole number")
    if not 1e-4 <= temperature <= 1e4:                           # logits / 1e-40 are infinite
        raise ValueError(f"temperature {temperature} must be above 0, in 0.0001..10,000; for the "
                         "likeliest code take top_k=1")
    if not 0 <= top_k <= cfg.n_codes:
        raise ValueError(f"top_k {top_k} must be in 0..{cfg.n_codes}; 0 takes all codes")
    for name, p in {"top_p": top_p, "first_top_p": first_top_p}.items():
        if not 1e-6 <= p <= 1:
            raise ValueError(f"{name} {p} must be in (0, 1], at least 1e-6; 1 takes all codes")
    if not -100 <= guidance <= 100:
        raise ValueError(f"guidance {guidance} must be in -100..100; 1 is off")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} must be in 0..2**63 - 1")
    if labels is not None and (labels.dim() != 1 or not len(labels) or
                               labels.is_floating_point()):
        raise ValueError(f"labels must be whole numbers (B,), one at least, got {labels.dtype} "
                         f"{tuple(labels.shape)}")
    if labels is not None:
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most > cfg.n_classes:
            raise ValueError(f"labels must be in 0..{cfg.n_classes}, the last meaning any class, "
                             f"got {least}..{most}")


def check_known(known: Tensor, keep: Tensor, shape: tuple, n_codes: int) -> None:
    """Raises ValueError unless what is kept in inpainting are codes, and the mask is one."""
    if keep.dtype != torch.bool or keep.shape != shape or known.shape != shape:
        raise ValueError(f"known and keep must be codes and a bool mask {shape}, got "
                         f"{tuple(known.shape)} and {keep.dtype} {tuple(keep.shape)}")
    kept = known[keep]
    if len(kept) and (kept.is_floating_point() or kept.min() < 0 or kept.max() >= n_codes):
        raise ValueError(f"known codes must be whole numbers in 0..{n_codes - 1}, got "
                         f"{kept.min().item()}..{kept.max().item()}")


def draw(logits: Tensor, temperature, top_k, top_p, rng) -> Tensor:  # (B, K) -> (B,)
    """One code per row.

    Of the top_k likeliest codes, the smallest set whose probability reaches top_p is drawn from.
    Drawn on the CPU, so that a seed gives the same sample on every device.
    """
    logits = logits.float().cpu() / temperature
    if top_k:
        least = logits.topk(top_k).values[:, -1:]                # (B, 1)
        logits = logits.masked_fill(logits < least, -torch.inf)
    p = logits.softmax(-1)
    if top_p < 1:
        sorted_p, which = p.sort(descending=True)
        before = sorted_p.cumsum(-1) - sorted_p
        sorted_p[before >= top_p] = 0                            # the code that crosses top_p stays
        p = torch.zeros_like(p).scatter(-1, which, sorted_p)
    ends = p.cumsum(-1, dtype=torch.double)                      # code k owns [ends[k-1], ends[k])
    u = torch.rand(len(p), 1, generator=rng, dtype=torch.double) * ends[:, -1:]
    return torch.searchsorted(ends, u, right=True)[:, 0]
