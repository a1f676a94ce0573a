"""What a linear probe on Lite0 features reads from images: are generated melanomas melanomas, and do they teach?

Letters: n images, d features, K classes.
"""
import numpy as np
import torch
from torch import Tensor

from vqlib.evaluation import need

# Weight of the mean loss beside half the squared norm, whatever the number of images. Of 0.5, 1, 1.5, 2, 5, 10 the least whose
# AUC in 3 folds of HAM10000's training lesions, 0.857, is within a standard error of the best (Hastie et al. 2009, section 7.10)
WEIGHT = 1.5


def macro_auc(p: np.ndarray, y: np.ndarray) -> float | None:         # (n, K), (n,)
    """One class against the rest, mean over the classes that some and not all images have; None if there is none."""
    here = [k for k in range(p.shape[1]) if 0 < (y == k).sum() < len(y)]
    return float(np.mean([need("sklearn.metrics").roc_auc_score(y == k, p[:, k]) for k in here])) if here else None


class Probe:
    """Multinomial logistic regression on standardised features, classes weighted to count equally."""

    def __init__(self, x: Tensor, y: Tensor, n_classes: int):        # (n, d), (n,)
        linear, steps = need("sklearn.linear_model"), need("sklearn.preprocessing")
        if len(np.unique(y)) < 2:
            raise ValueError("a probe needs images of at least two classes")
        self.n_classes, self.scale = n_classes, steps.StandardScaler().fit(x.numpy())
        self.model = linear.LogisticRegression(C=WEIGHT / len(y), class_weight="balanced", max_iter=1000)
        self.model.fit(self.scale.transform(x.numpy()), y.numpy())

    def probabilities(self, x: Tensor) -> np.ndarray:                # (n, d) -> (n, K)
        """Classes that were absent in training get 0."""
        p = np.zeros((len(x), self.n_classes))
        p[:, self.model.classes_] = self.model.predict_proba(self.scale.transform(x.numpy()))
        return p

    def scores(self, x: Tensor, y: Tensor) -> dict:                  # (n, d), (n,)
        """Recall per class (None without images), their mean, and macro one-vs-rest AUC (None if one class is all there is).

        Guessing gives 1/K and 0.5.
        """
        p, y = self.probabilities(x), y.numpy()
        here = [(k, y == k) for k in range(self.n_classes) if (y == k).any()]
        recall = {k: float((p[m].argmax(1) == k).mean()) for k, m in here}
        return {"recall": [recall.get(k) for k in range(self.n_classes)], "auc": macro_auc(p, y),
                "balanced_accuracy": float(np.mean(list(recall.values())))}


def class_control(probe: Probe, held_out: tuple, generated: tuple) -> dict:  # (features (n, d), labels (n,)) each
    """Recall of the requested classes on generated images over that on held-out ones, means over classes that both have.

    1: the classes are as plain as in reality; above 1 they are plainer, caricatures perhaps.
    """
    made, real = probe.scores(*generated)["recall"], probe.scores(*held_out)["recall"]
    both = [(m, r) for m, r in zip(made, real) if m is not None and r is not None]
    mean = np.mean(both, axis=0) if both else (0, 0)
    return {"recall": made, "recall_held_out": real, "ratio": float(mean[0] / mean[1]) if mean[1] else None}


def classification_accuracy_score(probe: Probe, train: tuple, generated: tuple, held_out: tuple) -> dict:
    """Macro AUC on held-out images of probes that learnt from real, generated and all images (Ravuri & Vinyals 2019).

    `probe` is the one that learnt from `train`. Ratios are to its AUC: 1 says that generated images teach as much; theirs is of
    top-1 accuracy on ImageNet.
    """
    pooled = tuple(torch.cat(pair) for pair in zip(train, generated))
    others = {name: Probe(*part, probe.n_classes) for name, part in (("generated", generated), ("both", pooled))}
    auc = {name: by.scores(*held_out)["auc"] for name, by in {"real": probe, **others}.items()}
    ratio = {f"ratio_{k}": auc[k] / auc["real"] if auc["real"] else None for k in ("generated", "both")}
    return {"images": {"real": len(train[1]), "generated": len(generated[1])}, "auc": auc, **ratio}
