"""Which kernel predicts left-out strategies best: five folds over a profile's measured archive.

    python benchmarks/kernel.py --profile PROFILE --output benchmarks/results/kernel.json

No language model. Each kernel is fitted by BoTorch as ``fit_surrogate`` does it, on log divergence and on divergence,
and judged on the fold it did not see: Spearman correlation, mean absolute error of the log divergence, and the share of
90 % intervals that cover.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.transforms import Standardize
from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
from common import write_result
from gpytorch.kernels import Kernel, ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from scipy.stats import spearmanr
from torch import Tensor

from unicuco_plugin.answering import load_profile
from unicuco_plugin.policy.posterior import Z90

FOLDS = 5


def main() -> None:
    """Fit, predict, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    profile = load_profile(args.profile)
    entries = [entry for entry in profile.record.archive if entry.measured]
    X = torch.stack([profile.search_space.parse(entry.strategy) for entry in entries])
    y = torch.tensor([entry.rank for entry in entries], dtype=torch.float64)
    d = X.shape[1]
    kernels: dict[str, Callable[[], Kernel]] = {
        "matern": lambda: get_covar_module_with_dim_scaled_prior(ard_num_dims=d, use_rbf_kernel=False),
        "scaled_matern": lambda: ScaleKernel(
            get_covar_module_with_dim_scaled_prior(ard_num_dims=d, use_rbf_kernel=False)
        ),
        "rbf": lambda: get_covar_module_with_dim_scaled_prior(ard_num_dims=d, use_rbf_kernel=True),
        "scaled_rbf": lambda: ScaleKernel(get_covar_module_with_dim_scaled_prior(ard_num_dims=d, use_rbf_kernel=True)),
    }
    result: dict[str, Any] = {"points": len(y)}
    for name, kernel in kernels.items():
        for target in ("log", "raw"):
            result[f"{name}/{target}"] = _judge(X, y, kernel, target)
            print(name, target, result[f"{name}/{target}"])
    write_result(args.output, result)


def _judge(X: Tensor, y: Tensor, kernel: Callable[[], Kernel], target: str) -> dict[str, float]:
    t = y.log() if target == "log" else y
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    mean, std = torch.empty_like(y), torch.empty_like(y)
    for fold in range(FOLDS):
        out = torch.zeros(len(y), dtype=torch.bool)
        out[order[fold::FOLDS]] = True
        model = SingleTaskGP(X[~out], t[~out, None], covar_module=kernel(), outcome_transform=Standardize(1))
        fit_gpytorch_mll(
            ExactMarginalLogLikelihood(model.likelihood, model), optimizer_kwargs={"options": {"maxiter": 75}}
        )
        with torch.no_grad():
            predicted = model.posterior(X[out], observation_noise=True)
            mean[out], std[out] = predicted.mean[:, 0], predicted.variance[:, 0].sqrt()
    divergence = mean.exp() if target == "log" else mean.clamp_min(0.01)
    return {
        "spearman": round(float(spearmanr(divergence, y).statistic), 4),
        "mean_absolute_log_error": round(float((divergence.log() - y.log()).abs().mean()), 4),
        "coverage": round(float(((t - mean).abs() <= Z90 * std).double().mean()), 4),
    }


if __name__ == "__main__":
    main()
