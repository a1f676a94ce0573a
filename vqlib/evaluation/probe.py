"""What a linear classifier of Lite0 features, a probe, reads from images.

Two questions: is a generated melanoma recognised as one, and can a probe that saw generated images
alone classify real ones? Letters: n images, d features, K classes.
"""
import numpy as np
import torch
from torch import Tensor

from vqlib.evaluation import need

# Weight of the mean loss beside half the squared norm, whatever the number of images. Of 0.5, 1,
# 1.5, 2, 5 and 10 it is the least whose AUC in 3 folds of HAM10000's training lesions, 0.857, is
# within a standard error of the best (Hastie et al. 2009, section 7.10).
WEIGHT = 1.5


def macro_auc(p: np.ndarray, y: np.ndarray) -> float | None:         # (n, K), (n,)
    """One class against the rest, mean over the classes that some and not all images have.

    None if there is no such class.
    """
    roc_auc_score = need("sklearn.metrics").roc_auc_score
    present = [k for k in range(p.shape[1]) if 0 < (y == k).sum() < len(y)]
    aucs = [roc_auc_score(y == k, p[:, k]) for k in present]
    return float(np.mean(aucs)) if aucs else None


class Probe:
    """Multinomial logistic regression on standardised features, classes weighted to count equally.

    Raises ValueError if all images are of one class.
    """

    def __init__(self, x: Tensor, y: Tensor, n_classes: int):        # (n, d), (n,)
        linear, preprocessing = need("sklearn.linear_model"), need("sklearn.preprocessing")
        if len(np.unique(y)) < 2:
            raise ValueError("a probe needs images of at least two classes")
        self.n_classes = n_classes
        self.scale = preprocessing.StandardScaler().fit(x.numpy())
        self.model = linear.LogisticRegression(
            C=WEIGHT / len(y), class_weight="balanced", max_iter=1000
        )
        self.model.fit(self.scale.transform(x.numpy()), y.numpy())

    def probabilities(self, x: Tensor, scale=None) -> np.ndarray:    # (n, d) -> (n, K)
        """Classes that were absent in training get 0."""
        p = np.zeros((len(x), self.n_classes))
        features = (scale or self.scale).transform(x.numpy())
        p[:, self.model.classes_] = self.model.predict_proba(features)
        return p

    def scores(self, x: Tensor, y: Tensor, scale=None) -> dict:      # (n, d), (n,)
        """Recall per class, their mean, and macro one-vs-rest AUC.

        The recall of a class without images is None, the AUC if all images are of one class.
        Guessing gives 1/K and 0.5. scale: a StandardScaler for images of another kind than those
        of the training; None: that of the training.
        """
        p, y = self.probabilities(x, scale), y.numpy()
        recall = [None] * self.n_classes
        for k in np.unique(y):
            recall[k] = float((p[y == k].argmax(1) == k).mean())
        known = [value for value in recall if value is not None]
        return {
            "recall": recall,
            "auc": macro_auc(p, y),
            "balanced_accuracy": float(np.mean(known)),
        }


def class_conditional_recall(probe: Probe, held_out: tuple, generated: tuple) -> dict:
    """Recall of the requested classes on generated images, and its ratio to that on held-out ones.

    `probe` saw real images; sets are (features (n, d), labels (n,)). The ratio is one of means over
    classes that both sets have. At 1 the classes are as plain as in reality; above 1 they are
    plainer, perhaps caricatures. None if the sets share no class, or if no held-out image of a
    shared class is recognised.
    """
    recall, real = probe.scores(*generated)["recall"], probe.scores(*held_out)["recall"]
    shared = [(g, r) for g, r in zip(recall, real) if g is not None and r is not None]
    mean_generated, mean_real = np.mean(shared, axis=0) if shared else (0, 0)
    ratio = float(mean_generated / mean_real) if mean_real else None
    return {"recall": recall, "ratio": ratio}


def classification_accuracy_score(
    probe: Probe, train: tuple, generated: tuple, held_out: tuple
) -> dict:
    """CAS: macro AUC on held-out images of probes trained on real, generated and all images.

    After Ravuri & Vinyals (2019), who take the ratio of top-1 accuracies on ImageNet. `probe` was
    trained on `train`. A `ratio_generated` of 1 says that a probe learns as much from generated
    images as from real ones; it is None if the held-out images have no AUC.
    `generated_standardised` scales held-out features by mean and deviation of real training images,
    generated ones by their own, as a probe that adapts to the kind of images (Sun, Feng & Saenko
    2016 align covariances; here variances only).
    """
    pooled = tuple(torch.cat(pair) for pair in zip(train, generated))
    probes = {
        "real": probe,
        "generated": Probe(*generated, probe.n_classes),
        "both": Probe(*pooled, probe.n_classes),
    }
    auc = {name: trained.scores(*held_out)["auc"] for name, trained in probes.items()}
    adapted = probes["generated"].scores(*held_out, scale=probe.scale)["auc"]
    auc["generated_standardised"] = adapted
    return {
        "images": {"real": len(train[1]), "generated": len(generated[1])},
        "auc": auc,
        "ratio_generated": auc["generated"] / auc["real"] if auc["real"] else None,
        "ratio_generated_standardised": adapted / auc["real"] if auc["real"] else None,
    }
