"""The prior: a GPT over the whole grid of codes, from sparse to dense; t codes in, t + 1 predictions out.

Letters: B images, T = h*w codes per image, t of them known, K codes, C width, H heads, c = C/H head width.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlib.backend.cpu import Linear


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of the whole-grid prior."""

    grid: int = 16              # cells per side: T = grid**2
    n_codes: int = 512          # K
    n_classes: int = 7
    width: int = 128            # C
    heads: int = 4
    kv_heads: int = 1           # that share keys and values: one is a quarter of what sampling reads from memory
    layers: int = 6
    dropout: float = 0.1
    class_dropout: float = 0.1  # share of training images that lose their class: needed for guidance
    rate: float = 0.0           # at which its codes are chosen, see vqlib.entropy_constrained; 0: the nearest

    def __post_init__(self):
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads, or those not of {self.kv_heads} kv_heads")


SAMPLING = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "first_top_p": 1.0, "guidance": 1.0}  # of `generate`: as trained
NEIGHBOURS = [(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c] + [(-2, 0), (0, -2), (0, 2), (2, 0)]  # lattice steps


def coarse_to_fine(side: int) -> tuple[Tensor, Tensor]:
    """(T,) cells (row * side + column) in the order of drawing, and (T, 12): when the cells around each were drawn, else T.

    The middle comes first, then lattices that halve their step: the centres of four drawn cells, then the edges between
    them. So what a lesion is and where it lies is settled in the first few codes, and each later one fills a gap.
    """
    def step(i):                                                      # largest power of two in the distance to the middle
        d = abs(i - side // 2)
        return d & -d or 1 << side.bit_length()

    lattice = {(r, c): min(step(r), step(c)) for r in range(side) for c in range(side)}
    cells = sorted(lattice, key=lambda cell: (-lattice[cell], step(cell[0]) != step(cell[1]), cell))
    rank = {cell: t for t, cell in enumerate(cells)}
    around = [[rank.get((r + a * lattice[r, c], b * lattice[r, c] + c), side**2) for a, b in NEIGHBOURS] for r, c in cells]
    drawn = torch.tensor(around)
    drawn[drawn >= torch.arange(side**2)[:, None]] = side**2          # not yet, or outside
    return torch.tensor([r * side + c for r, c in cells]), drawn


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward net, each added to its input.

    Heads may share keys and values in groups (Ainslie et al. 2023; one group: Shazeer 2019).
    """

    def __init__(self, width, heads, dropout, kv_heads=None, activation=nn.GELU):
        super().__init__()
        self.heads, self.kv_heads, self.head_width, self.dropout = heads, kv_heads or heads, width // heads, dropout
        inner = heads * self.head_width        # 126 for the report's 6 heads on width 128
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = Linear(width, inner + 2 * self.kv_heads * self.head_width, bias=False)
        self.out = Linear(inner, width)
        self.feed = nn.Sequential(Linear(width, 4 * width), activation(), Linear(4 * width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, cache=None, start=0) -> Tensor:      # (B, t, C)
        B, t, _ = x.shape
        H, G, c = self.heads, self.kv_heads, self.head_width
        q, kv = self.qkv(self.norm1(x)).view(B, t, H + 2 * G, c).split([H, 2 * G], 2)     # (B, t, H or 2G, c)
        kv = kv.unflatten(2, (2, G)).permute(2, 0, 3, 1, 4).flatten(1, 2)                 # (2, BG, t, c)
        if cache is not None:                                         # (2, BG, T, c), filled in place
            cache[:, :, start : start + t] = kv
            kv = cache[:, :, : start + t]
        # with a cache the queries are either the whole prefix or the one newest row, which may see all of it
        k, v = kv
        if t == 1:                                                    # two thin products beat the fused kernel
            weights = torch.baddbmm(x.new_zeros(()), q.reshape(B * G, H // G, c), k.mT, beta=0, alpha=c**-0.5).softmax(-1)
            y = torch.bmm(weights, v).view(B, 1, -1)
        else:
            k, v = (m.unflatten(0, (B, G)) for m in (k, v))           # (B, G, t, c); dropout in attention: half the speed
            y = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, is_causal=True, enable_gqa=True)
            y = y.transpose(1, 2).reshape(B, t, -1)
        y = self.out(y)
        x = x + (F.dropout(y, self.dropout) if self.training else y)
        return x + self.feed(self.norm2(x))


def init_weights(model: nn.Module, layers: int) -> None:
    """GPT-2's: normal with std 0.02, and the layers that write to the residual stream narrower by sqrt(2 * layers)."""
    for name, p in model.named_parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.02 / (2 * layers) ** 0.5 if name.endswith(("out.weight", "feed.2.weight")) else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(p)


class GPT(nn.Module):
    """Class-conditional prior. A cell to predict enters as the sum of its place, the class, the codes drawn around it, and the
    code drawn last with its place. Codes are given to `forward` in the order of drawing, elsewhere row by row.

    Label `n_classes` means "any class". Attention has to find what is near by its position, one layer and many updates later:
    giving it is cheaper.
    """

    def __init__(self, cfg: GPTConfig, seed=0):
        super().__init__()
        self.cfg = cfg
        for name, table in zip(("generation_order", "around"), self.tables(cfg.grid)):
            self.register_buffer(name, table, persistent=False)
        self.register_buffer("offset", torch.arange(len(NEIGHBOURS)) * cfg.n_codes, persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.start = nn.Embedding(cfg.n_classes + 1, cfg.width)
            none = len(NEIGHBOURS) * cfg.n_codes                          # stands for codes that are not there
            self.near = nn.EmbeddingBag(none + 1, cfg.width, mode="sum", padding_idx=none)
            self.last = nn.Embedding(cfg.n_codes, cfg.width)
            self.row, self.column, self.last_row, self.last_column = (
                nn.Parameter(torch.empty(*shape, cfg.width)) for shape in ((cfg.grid, 1), (1, cfg.grid)) * 2)
            self.blocks = nn.ModuleList([Block(cfg.width, cfg.heads, cfg.dropout, cfg.kv_heads) for _ in range(cfg.layers)])
            self.norm = nn.LayerNorm(cfg.width)
            self.head = Linear(cfg.width, cfg.n_codes, bias=False)
            init_weights(self, cfg.layers)

    tables = staticmethod(coarse_to_fine)

    def known(self, labels: Tensor) -> Tensor:                        # (B,) -> (B, T, C)
        """What predictions know before any code is drawn: the class, their place, and that of the code before them."""
        place, last = ((r + c).flatten(0, 1)[self.generation_order] for r, c in ((self.row, self.column), (self.last_row, self.last_column)))
        return self.start(labels)[:, None] + (place + F.pad(last[:-1], (0, 0, 1, 0)))

    def inputs(self, codes: Tensor, known: Tensor, first: int, n: int) -> Tensor:  # (B, T+1), (B, T, C) -> (B, n, C)
        """Of predictions first..first+n-1; `codes` are in the order of drawing, and -1 where there is none, as at T."""
        near = codes[:, self.around[first : first + n]]               # (B, n, 12)
        near = torch.where(near < 0, self.near.padding_idx, near + self.offset)
        x = self.near(near.flatten(0, 1)).view(len(codes), n, -1) + known[:, first : first + n]
        begin = max(first, 1)                                         # nothing was drawn before the first code
        last = self.last(codes[:, begin - 1 : first + n - 1].clamp_min(0))
        return x + (last if begin == first else F.pad(last, (0, 0, 1, 0)))

    def forward(self, prefix: Tensor, labels: Tensor) -> Tensor:     # (B, t) codes in the order of drawing, t may be 0; (B,)
        """Logits (B, t+1, K): row i predicts the code at cell order[i] from the i codes before it and the class."""
        t = prefix.shape[1]
        codes = F.pad(prefix, (0, len(self.generation_order) + 1 - t), value=-1)                # (B, T+1)
        x = F.dropout(self.inputs(codes, self.known(labels), 0, t + 1), self.cfg.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def nats(self, codes: Tensor, labels: Tensor) -> Tensor:         # (B, T), (B,)
        """-log p of each code, (B, T), row by row like the codes; their sum is the image's NLL in nats."""
        drawn = codes[:, self.generation_order]
        logits = self(drawn[:, :-1], labels)                         # (B, T, K)
        nats = F.cross_entropy(logits.flatten(0, 1), drawn.flatten(), reduction="none")  # (B*T,) K stays the last axis
        return nats.view_as(drawn)[:, self.generation_order.argsort()]

    def loss(self, codes: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Mean nats per code of a training batch, with some classes hidden."""
        hide = (torch.rand(len(labels), generator=rng) < self.cfg.class_dropout).to(labels.device, non_blocking=True)
        return self.nats(codes, labels.masked_fill(hide, self.cfg.n_classes)).mean()

    @torch.no_grad()
    def steps(self, labels: Tensor):                                  # (B,)
        """Yield logits (B, K) of the code at cell order[0], order[1], ..., with cached keys and values; send the code chosen."""
        self.eval()
        T = self.cfg.grid**2                                          # a cache per layer: glibc keeps blocks of that size
        caches = [self.row.new_empty(2, len(labels) * b.kv_heads, T, b.head_width) for b in self.blocks]
        codes, known = labels.new_full((len(labels), T + 1), -1), self.known(labels)
        for t in range(T):
            x = self.inputs(codes, known, t, 1)                       # (B, 1, C)
            for b, cache in zip(self.blocks, caches):
                x = b(x, cache, t)
            codes[:, t] = yield self.head(self.norm(x[:, 0]))

    @torch.no_grad()
    def generate(self, labels: Tensor, temperature=1.0, top_k=0, top_p=1.0, first_top_p=1.0, guidance=1.0, known=None,
                 keep=None, seed=0, progress=None) -> Tensor:        # (B,) -> (B, T)
        """Codes drawn one after another, returned row by row.

        labels: (B,) in 0..n_classes, the last meaning any class. temperature > 0; top_k 0 and top_p 1 mean all codes.
        first_top_p: top_p of the first T/16 codes, which settle where the lesion lies: a rare one there cannot be mended later.
        guidance g: logits = any + g * (class - any) (Ho & Salimans 2022, equation 6 with g = 1 + w); 1 is off.
        known, keep: (B, T) codes and a bool mask; masked cells are taken over as they are (inpainting; what is drawn after
        them sees them, what is drawn before does not). progress(t, T) is called after each code.
        """
        device, T = self.head.weight.device, self.cfg.grid**2
        rng, labels = torch.Generator().manual_seed(seed), labels.to(device)
        loop = self.steps(labels if guidance == 1 else torch.cat([labels, torch.full_like(labels, self.cfg.n_classes)]))
        logits, codes = next(loop), torch.empty(len(labels), T, dtype=torch.long, device=device)
        for t, cell in enumerate(self.generation_order.tolist()):               # logits: (B, K) or (2B, K)
            if guidance != 1:
                told, free = logits.chunk(2)
                logits = free.lerp(told, guidance)
            codes[:, cell] = draw(logits, temperature, top_k, min(top_p, first_top_p) if t < T // 16 else top_p, rng)
            if keep is not None:
                codes[:, cell] = torch.where(keep[:, cell], known[:, cell], codes[:, cell])
            if t + 1 < T:
                logits = loop.send(codes[:, cell] if guidance == 1 else codes[:, cell].repeat(2))
            if progress:
                progress(t + 1, T)
        return codes


def draw(logits: Tensor, temperature, top_k, top_p, rng) -> Tensor:  # (B, K) -> (B,)
    """One code per row, from the k likeliest codes and from the least set whose probability reaches top_p."""
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be above 0; for the likeliest code take top_k=1")
    if not 0 <= top_k <= logits.shape[-1] or not 0 < top_p <= 1:
        raise ValueError(f"top_k {top_k} must be in 0..{logits.shape[-1]} and top_p {top_p} in (0, 1]")
    logits = logits.float().cpu() / temperature                      # drawn on the CPU: the same seed, the same sample
    if top_k:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    p = logits.softmax(-1)
    if top_p < 1:
        sorted_p, which = p.sort(descending=True)
        sorted_p[sorted_p.cumsum(-1) - sorted_p >= top_p] = 0        # the code that crosses top_p stays
        p = torch.zeros_like(p).scatter(-1, which, sorted_p)
    ends = p.cumsum(-1, dtype=torch.double)                          # code k owns the part of [0, 1) up to its end
    u = torch.rand(len(p), 1, generator=rng, dtype=torch.double) * ends[:, -1:]
    return torch.searchsorted(ends, u, right=True)[:, 0]             # inverse CDF
