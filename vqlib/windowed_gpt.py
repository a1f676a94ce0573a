"""The report's prior: a transformer on random windows of the code sequence, kept as the baseline.

Letters: B images, T = h*w codes per image, K codes, w window length, t tokens of it given.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlib import settings
from vqlib.backend.cpu import Linear
from vqlib.gpt import Block, check_settings, draw, init_weights


@dataclass(frozen=True)
class WindowedGPTConfig:
    """Sizes of the report's transformer; 6 heads floor to 21 channels each, 126 of 128."""

    grid: int = 32
    n_codes: int = 512
    width: int = 128
    heads: int = 6
    layers: int = 6
    dropout: float = 0.2

    def __post_init__(self):
        settings.check(self)
        if self.grid < 2:
            raise ValueError(f"grid {self.grid} must be at least 2: a window is a quarter of it")
        if self.heads > self.width:
            raise ValueError(f"{self.heads} heads must be at most the width, {self.width}")

    @property
    def window(self) -> int:
        """A quarter of the grid, as 256 is of 1,024."""
        return self.grid**2 // 4


class WindowedGPT(nn.Module):
    """A transformer on windows of the sequence: start (token K), codes, end (token K + 1).

    Positions count from the window's first token. Only start and end tell where in the image a
    window lies, so it can learn texture but hardly any layout.
    """

    def __init__(self, cfg: WindowedGPTConfig, seed=0):
        super().__init__()
        self.cfg = cfg
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(cfg.n_codes + 2, cfg.width)
            self.position = nn.Embedding(cfg.window, cfg.width)
            self.blocks = nn.ModuleList(Block(cfg.width, cfg.heads, cfg.dropout, activation=nn.ReLU)
                                        for _ in range(cfg.layers))
            self.norm = nn.LayerNorm(cfg.width)
            self.head = Linear(cfg.width, cfg.n_codes + 2)
            init_weights(self, cfg.layers)

    def forward(self, tokens: Tensor) -> Tensor:                 # (B, t)
        """Logits (B, t, K+2): row i predicts the token after token i.

        Raises ValueError unless t <= w.
        """
        t, w = tokens.shape[1], self.cfg.window
        if t > w:
            raise ValueError(f"a window has at most {w} tokens, got {t}")
        x = self.embed(tokens) + self.position.weight[:t]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def sequence(self, codes: Tensor) -> Tensor:                 # (B, T) -> (B, T+2)
        """Start, codes, end."""
        started = F.pad(codes, (1, 0), value=self.cfg.n_codes)
        return F.pad(started, (0, 1), value=self.cfg.n_codes + 1)

    def loss(self, codes: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Mean nats per token of one random window per image; the class is not used.

        Draws exactly one number per image from `rng`, see `GPT.loss`.
        """
        tokens, w = self.sequence(codes), self.cfg.window
        first = torch.randint(tokens.shape[1] - w, (len(tokens), 1), generator=rng)
        places = (first + torch.arange(w + 1)).to(tokens.device, non_blocking=True)
        windows = tokens.gather(1, places)                       # (B, w+1)
        return F.cross_entropy(self(windows[:, :-1]).transpose(1, 2), windows[:, 1:])

    def nats(self, codes: Tensor, labels: Tensor) -> Tensor:     # (B, T)
        """-log p of each code, (B, T), in strides of w/2.

        After the first window each code is predicted from w/2 to w tokens. Start and end keep
        their share of the probability, as in training.
        """
        tokens, w, T = self.sequence(codes)[:, :-1], self.cfg.window, codes.shape[1]
        parts, done = [], 0
        for i in [*range(0, T - w, max(1, w // 2)), T - w]:      # token i predicts code i
            logits = self(tokens[:, i : i + w]).transpose(1, 2)  # (B, K+2, w)
            nats = F.cross_entropy(logits, codes[:, i : i + w], reduction="none")
            parts.append(nats[:, done - i :])
            done = i + w
        return torch.cat(parts, 1)

    @torch.no_grad()
    def generate(self, n: int, temperature=1.0, top_k=0, top_p=1.0, seed=0,
                 progress=None) -> Tensor:                       # (n, T)
        """The report's way: for each code a full pass over the last w tokens.

        Start and end are never drawn. Settings and errors as in `GPT.generate`.
        """
        self.eval()
        check_settings(self.cfg, None, temperature, top_k, top_p, seed=seed)
        rng, T = torch.Generator().manual_seed(seed), self.cfg.grid**2
        tokens = torch.full((n, 1), self.cfg.n_codes, device=self.head.weight.device)
        for t in range(T):
            logits = self(tokens[:, -self.cfg.window :])[:, -1, : self.cfg.n_codes]
            chosen = draw(logits, temperature, top_k, top_p, rng).to(tokens.device)
            tokens = torch.cat([tokens, chosen[:, None]], 1)
            if progress:
                progress(t + 1, T)
        return tokens[:, 1:]
