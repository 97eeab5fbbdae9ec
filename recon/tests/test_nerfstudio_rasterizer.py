"""The rasterizer that splatfacto calls without a GPU: what densification reads from it, and what gsplat's would take."""

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussgym_render.differentiable import rasterize

sys.path.append(str(Path(__file__).parents[1] / "nerfstudio_method" / "src"))
rasterizer = pytest.importorskip("gaussgym_nerfstudio.rasterizer")


def splats(n=30, seed=0, degree=2):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(n, 3, generator=g) * torch.tensor([0.8, 0.6, 0.4]) + torch.tensor([0.0, 0.0, 4.0])
    return {
        "means": means, "quats": torch.randn(n, 4, generator=g), "scales": 0.05 + 0.2 * torch.rand(n, 3, generator=g),
        "opacities": 0.3 + 0.6 * torch.rand(n, generator=g),
        "colors": 0.4 * torch.randn(n, (degree + 1) ** 2, 3, generator=g),
    }  # fmt: skip


def camera(cx=24.0):
    return {
        "viewmats": torch.eye(4)[None], "Ks": torch.tensor([[[50.0, 0, cx], [0, 45, 16], [0, 0, 1]]]), "width": 48,
        "height": 32, "sh_degree": 2,
    }  # fmt: skip


AS_SPLATFACTO_CALLS_IT = {
    "packed": False, "near_plane": 0.01, "far_plane": 1e10, "sparse_grad": False, "absgrad": False,
    "rasterize_mode": "antialiased",
}  # fmt: skip


def test_the_image_is_the_rasterizers_own():
    s = splats()
    image, alpha, info = rasterizer.rasterization(
        **s, **camera(), **AS_SPLATFACTO_CALLS_IT, render_mode="RGB+ED"
    )
    rgb, a, depth, drawn = rasterize(*s.values(), camera()["viewmats"], camera()["Ks"], 48, 32, sh_degree=2)
    assert image.shape == (1, 32, 48, 4)
    assert alpha.shape == (1, 32, 48, 1)
    torch.testing.assert_close(image[..., :3], rgb)
    torch.testing.assert_close(image[..., 3], depth)
    torch.testing.assert_close(alpha[..., 0], a)
    torch.testing.assert_close(info["means2d"], drawn["means2d"])
    assert (info["width"], info["height"], info["n_cameras"], info["gaussian_ids"]) == (48, 32, 1, None)
    assert ((info["radii"] > 0) == drawn["visible"]).all()
    assert 0 < info["radii"].max() <= 24


def test_the_gradient_of_means2d_is_that_of_moving_the_image_plane():
    """Shifting the principal point moves all projected centres alike: their gradients add up to the slope of the loss."""
    s = {k: v.requires_grad_() for k, v in splats(seed=2).items()}
    weight = 10 * torch.linspace(0, 1, 48)[None, None, :, None] * torch.tensor([1.0, 0, 0])

    def loss(cx, values):
        image, _, info = rasterizer.rasterization(**values, **camera(cx), **AS_SPLATFACTO_CALLS_IT)
        return (image.double() * weight).sum(), info

    value, info = loss(24.0, s)
    info["means2d"].retain_grad()  # as gsplat's strategy does
    value.backward()
    grad = info["means2d"].grad
    assert grad.shape == (1, 30, 2)
    with torch.no_grad():
        slope = float(loss(24.1, s)[0] - loss(23.9, s)[0]) / 0.2
    assert abs(slope) > 20
    # Splats end at 1/255: that edge moves too, which the difference sees and no rasterizer's gradient does.
    assert float(grad[..., 0].sum()) == pytest.approx(slope, rel=0.1)
    assert (grad[0][~(info["radii"][0] > 0)] == 0).all()
    assert s["means"].grad.abs().sum() > 0


def test_the_gradients_of_the_splats_are_not_changed_by_reading_those_of_means2d():
    ours, plain = ({k: v.requires_grad_() for k, v in splats(seed=4).items()} for _ in range(2))
    rasterizer.rasterization(**ours, **camera(), **AS_SPLATFACTO_CALLS_IT)[0].square().sum().backward()
    rgb = rasterize(*plain.values(), camera()["viewmats"], camera()["Ks"], 48, 32, sh_degree=2)[0]
    rgb.square().sum().backward()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor.grad, plain[name].grad)


def test_without_gradients_nothing_is_kept():
    with torch.no_grad():
        image, _, info = rasterizer.rasterization(**splats(), **camera(), **AS_SPLATFACTO_CALLS_IT)
    assert not image.requires_grad
    assert not info["means2d"].requires_grad


@pytest.mark.parametrize(
    "setting",
    [{"absgrad": True}, {"packed": True}, {"render_mode": "D"}, {"rasterize_mode": "sharp"}, {"camera_model": "fisheye"},
     {"unheard_of": 1}],
)  # fmt: skip
def test_what_it_lacks_it_refuses(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        rasterizer.rasterization(**splats(), **camera(), **{**AS_SPLATFACTO_CALLS_IT, **setting})


def test_gsplat_takes_the_same_arguments():
    gsplat = pytest.importorskip("gsplat.rendering")
    theirs = inspect.signature(gsplat.rasterization).parameters
    ours = [
        p.name
        for p in inspect.signature(rasterizer.rasterization).parameters.values()
        if p.kind != p.VAR_KEYWORD
    ]
    assert set(ours) <= set(theirs)
    assert ours[:9] == list(theirs)[:9]  # these are handed on by position
    for name, value in rasterizer._AS_BY_DEFAULT.items():
        assert name in theirs
        if name != "packed":  # splatfacto always says packed=False
            assert theirs[name].default == value or np.isclose(theirs[name].default, value)
