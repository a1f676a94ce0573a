"""Two priors: a GPT over the whole grid of codes, t codes in and t + 1 predictions out, and the report's windowed transformer.

Letters: B images, T = h*w codes per image, t of them known, K codes, C width, H heads, c = C/H head width, w window length.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of the whole-grid prior."""

    grid: int = 16              # cells per side: T = grid**2
    n_codes: int = 512          # K
    n_classes: int = 7
    width: int = 128            # C
    heads: int = 4
    layers: int = 6
    dropout: float = 0.1
    class_dropout: float = 0.1  # share of training images that lose their class: needed for guidance

    @property
    def neighbours(self) -> tuple[int, ...]:
        """How many codes back the cells to the left, above, above right and above left lie (around the border: past it)."""
        return 1, self.grid, self.grid - 1, self.grid + 1

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward net, each added to its input."""

    def __init__(self, width, heads, dropout, activation=nn.GELU):
        super().__init__()
        self.heads, self.head_width, self.dropout = heads, width // heads, dropout
        inner = heads * self.head_width        # 126 for the report's 6 heads on width 128
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), activation(), nn.Linear(4 * width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, cache=None, start=0) -> Tensor:      # (B, t, C)
        B, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, t, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)  # (B, H, t, c)
        if cache is not None:                                         # (2, B, H, T, c), filled in place
            cache[0, :, :, start : start + t], cache[1, :, :, start : start + t] = k, v
            k, v = cache[:, :, :, : start + t]
        # with a cache the queries are either the whole prefix or the one newest row, which may see all of it
        y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)  # dropout in here would halve the speed on a CPU
        y = self.out(y.transpose(1, 2).reshape(B, t, -1))
        x = x + F.dropout(y, self.dropout, self.training)
        return x + self.feed(self.norm2(x))


def init_weights(model: nn.Module, layers: int) -> None:
    """GPT-2's: normal with std 0.02, and the layers that write to the residual stream narrower by sqrt(2 * layers)."""
    for name, p in model.named_parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.02 / (2 * layers) ** 0.5 if name.endswith(("out.weight", "feed.2.weight")) else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(p)


class GPT(nn.Module):
    """Class-conditional prior: each cell enters as the sum of its class, its place and its four known neighbours.

    Neighbours that do not exist yet add nothing; the first cell knows its class and place only. Label `n_classes` means "any
    class". Attention has to find what is above by its position, one layer and many updates later: giving it is cheaper.
    """

    def __init__(self, cfg: GPTConfig, seed=0):
        super().__init__()
        self.cfg = cfg
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.start = nn.Embedding(cfg.n_classes + 1, cfg.width)
            self.past = nn.ModuleList([nn.Embedding(cfg.n_codes, cfg.width) for _ in cfg.neighbours])
            self.row = nn.Parameter(torch.empty(cfg.grid, 1, cfg.width))
            self.column = nn.Parameter(torch.empty(1, cfg.grid, cfg.width))
            self.blocks = nn.ModuleList([Block(cfg.width, cfg.heads, cfg.dropout) for _ in range(cfg.layers)])
            self.norm = nn.LayerNorm(cfg.width)
            self.head = nn.Linear(cfg.width, cfg.n_codes, bias=False)
            init_weights(self, cfg.layers)

    def inputs(self, prefix: Tensor, labels: Tensor) -> Tensor:      # (B, t) codes, (B,) -> (B, t+1, C)
        n = prefix.shape[1] + 1
        x = self.start(labels)[:, None] + (self.row + self.column).flatten(0, 1)[:n]  # row i stands at the cell it predicts
        for back, embed in zip(self.cfg.neighbours, self.past):
            x = x + F.pad(embed(prefix[:, : max(n - back, 0)]), (0, 0, min(back, n), 0))
        return x

    def forward(self, prefix: Tensor, labels: Tensor) -> Tensor:     # (B, t) codes, t may be 0; (B,)
        """Logits (B, t+1, K): row i predicts code i from codes 0..i-1 and the class."""
        x = F.dropout(self.inputs(prefix, labels), self.cfg.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def nats(self, codes: Tensor, labels: Tensor) -> Tensor:         # (B, T), (B,)
        """-log p of each code, (B, T); their sum is the image's NLL in nats."""
        logits = self(codes[:, :-1], labels)                         # (B, T, K)
        return F.cross_entropy(logits.transpose(1, 2), codes, reduction="none")

    def loss(self, codes: Tensor, labels: Tensor, dice: torch.Generator) -> Tensor:
        """Mean nats per code of a training batch, with some classes hidden."""
        hide = (torch.rand(len(labels), generator=dice) < self.cfg.class_dropout).to(labels.device, non_blocking=True)
        return self.nats(codes, labels.masked_fill(hide, self.cfg.n_classes)).mean()

    @torch.no_grad()
    def steps(self, labels: Tensor):                                  # (B,)
        """Yield logits (B, K) of code 0, 1, ..., T-1, with cached keys and values; send the code (B,) chosen in return."""
        self.eval()
        block, T = self.blocks[0], self.cfg.grid**2
        cache = labels.new_empty(len(self.blocks), 2, len(labels), block.heads, T, block.head_width, dtype=self.row.dtype)
        codes = labels.new_zeros(len(labels), T)
        place = self.start(labels)[:, None] + (self.row + self.column).flatten(0, 1)      # (B, T, C)
        for t in range(T):
            x = place[:, t : t + 1]                                   # (B, 1, C)
            for back, embed in zip(self.cfg.neighbours, self.past):
                if back <= t:
                    x = x + embed(codes[:, t - back])[:, None]
            for layer, b in enumerate(self.blocks):
                x = b(x, cache[layer], t)
            codes[:, t] = yield self.head(self.norm(x[:, 0]))

    @torch.no_grad()
    def generate(self, labels: Tensor, temperature=1.0, top_k=0, top_p=1.0, guidance=1.0, known=None, keep=None,
                 seed=0, progress=None) -> Tensor:                   # (B,) -> (B, T)
        """Codes drawn one after another.

        labels: (B,) in 0..n_classes, the last meaning any class. temperature > 0; top_k 0 and top_p 1 mean all codes.
        guidance g: logits = any + g * (class - any) (Ho & Salimans 2022, equation 6 with g = 1 + w); 1 is off.
        known, keep: (B, T) codes and a bool mask; masked cells are taken over as they are (inpainting; what follows
        them sees them, what precedes does not). progress(t, T) is called after each code.
        """
        device, T = self.head.weight.device, self.cfg.grid**2
        dice, labels = torch.Generator().manual_seed(seed), labels.to(device)
        loop = self.steps(labels if guidance == 1 else torch.cat([labels, torch.full_like(labels, self.cfg.n_classes)]))
        logits, codes = next(loop), torch.empty(len(labels), T, dtype=torch.long, device=device)
        for t in range(T):                                           # logits: (B, K) or (2B, K)
            if guidance != 1:
                conditional, free = logits.chunk(2)
                logits = free + guidance * (conditional - free)
            codes[:, t] = draw(logits, temperature, top_k, top_p, dice)
            if keep is not None:
                codes[:, t] = torch.where(keep[:, t], known[:, t], codes[:, t])
            if t + 1 < T:
                logits = loop.send(codes[:, t] if guidance == 1 else codes[:, t].repeat(2))
            if progress:
                progress(t + 1, T)
        return codes


def draw(logits: Tensor, temperature, top_k, top_p, dice) -> Tensor:  # (B, K) -> (B,)
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
    return torch.multinomial(p, 1, generator=dice)[:, 0]


@dataclass(frozen=True)
class WindowedConfig:
    """Sizes of the report's transformer; 6 heads floor to 21 channels each, 126 of 128, as there."""

    grid: int = 32
    n_codes: int = 512
    width: int = 128
    heads: int = 6
    layers: int = 6
    dropout: float = 0.2

    @property
    def window(self) -> int:
        """A quarter of the grid, as 256 is of 1,024."""
        return self.grid**2 // 4


class WindowedGPT(nn.Module):
    """The report's prior, kept as the baseline: windows of the sequence start (K), codes, end (K + 1).

    Positions count from the window's first token: it never knows where it is, so it can learn texture but no layout.
    """

    def __init__(self, cfg: WindowedConfig, seed=1337):
        super().__init__()
        self.cfg = cfg
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(cfg.n_codes + 2, cfg.width)
            self.position = nn.Embedding(cfg.window, cfg.width)
            self.blocks = nn.ModuleList([Block(cfg.width, cfg.heads, cfg.dropout, nn.ReLU) for _ in range(cfg.layers)])
            self.norm = nn.LayerNorm(cfg.width)
            self.head = nn.Linear(cfg.width, cfg.n_codes + 2)
            init_weights(self, cfg.layers)

    def forward(self, tokens: Tensor) -> Tensor:                      # (B, t), t <= w -> (B, t, K+2)
        x = self.embed(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def sequence(self, codes: Tensor) -> Tensor:                      # (B, T) -> (B, T+2)
        K = self.cfg.n_codes
        return F.pad(F.pad(codes, (1, 0), value=K), (0, 1), value=K + 1)

    def loss(self, codes: Tensor, labels: Tensor, dice: torch.Generator) -> Tensor:
        """Mean nats per token of one random window per image; the class is not used."""
        tokens, w = self.sequence(codes), self.cfg.window
        first = torch.randint(tokens.shape[1] - w, (len(tokens), 1), generator=dice)
        windows = tokens.gather(1, (first + torch.arange(w + 1)).to(tokens.device, non_blocking=True))  # (B, w+1)
        return F.cross_entropy(self(windows[:, :-1]).transpose(1, 2), windows[:, 1:])

    def nats(self, codes: Tensor, labels: Tensor) -> Tensor:          # (B, T)
        """-log p of each code, (B, T), in strides of w/2: after the first window each code sees w/2 to w tokens."""
        tokens, w, T = self.sequence(codes)[:, :-1], self.cfg.window, codes.shape[1]
        parts, done = [], 0
        for first in [*range(0, T - w, max(1, w // 2)), T - w]:
            nats = F.cross_entropy(self(tokens[:, first : first + w]).transpose(1, 2), codes[:, first : first + w],
                                   reduction="none")                  # token i predicts code i
            parts.append(nats[:, done - first :])
            done = first + w
        return torch.cat(parts, 1)

    @torch.no_grad()
    def generate(self, n: int, temperature=1.0, top_k=0, top_p=1.0, seed=0, progress=None) -> Tensor:  # (n, T)
        """The report's way: a full pass over the last w tokens for each new one. Start and end are never drawn."""
        self.eval()
        dice, T = torch.Generator().manual_seed(seed), self.cfg.grid**2
        tokens = torch.full((n, 1), self.cfg.n_codes, device=self.head.weight.device)
        for t in range(T):
            logits = self(tokens[:, -self.cfg.window :])[:, -1, : self.cfg.n_codes]
            tokens = torch.cat([tokens, draw(logits, temperature, top_k, top_p, dice)[:, None].to(tokens.device)], 1)
            if progress:
                progress(t + 1, T)
        return tokens[:, 1:]
