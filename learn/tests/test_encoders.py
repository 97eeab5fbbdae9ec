"""Encoders against slow twins in plain functions under the published names."""

import numpy as np
import pytest
import torch
from gaussgym_learn.encoders import ENCODERS, build_encoder, load_encoder_weights
from gaussgym_learn.encoders.dinov2 import DinoV2Encoder
from gaussgym_learn.encoders.resnet import ResNet18Encoder
from gaussgym_scene.errors import InputError
from torch.nn import functional as F

IMAGENET = (torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225]))


def images(channels, height, width, batch=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, channels, height, width), generator=g, dtype=torch.uint8)


def built(name, shape, feature_dim):
    """An encoder; of DINOv2 one with two narrow blocks, whose making does not take a second."""
    torch.manual_seed(0)
    if name == "dinov2_vits14":
        return DinoV2Encoder(*shape, feature_dim, token_dim=48, depth=2, heads=4)
    return build_encoder(name, shape, feature_dim)


def randomized(module, seed=1):
    """State dict with every value random, so that no name can be left out unseen."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            state[name] = value.clone()
        elif name.endswith("running_var"):
            state[name] = torch.rand(value.shape, generator=g) + 0.5
        else:
            state[name] = value + 0.05 * torch.randn(value.shape, generator=g)
    return state


def imagenet(x):
    return (x.double() / 255 - IMAGENET[0].view(3, 1, 1)) / IMAGENET[1].view(3, 1, 1)


# --- slow twins: the published networks as plain functions of a state dict --------------------------------------------


def resnet18_twin(state, x):
    s = {k: v.double() for k, v in state.items()}

    def bn(x, name):
        scale = s[f"{name}.weight"] / torch.sqrt(s[f"{name}.running_var"] + 1e-5)
        shift = s[f"{name}.bias"] - s[f"{name}.running_mean"] * scale
        return x * scale[:, None, None] + shift[:, None, None]

    x = bn(F.conv2d(x, s["conv1.weight"], stride=2, padding=3), "bn1").clamp_min(0)
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-torch.inf), 3, 2)
    for layer in range(1, 5):
        for block in range(2):
            name = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = bn(F.conv2d(x, s[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1").clamp_min(
                0
            )
            y = bn(F.conv2d(y, s[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if stride == 2:
                x = bn(F.conv2d(x, s[f"{name}.downsample.0.weight"], stride=2), f"{name}.downsample.1")
            x = (x + y).clamp_min(0)
    return x


def dinov2_twin(state, x, *, depth, heads):
    """x: normalized, sides multiples of 14. One patch, one head at a time."""
    s = {k: v.double() for k, v in state.items()}
    width = s["cls_token"].shape[-1]
    rows, columns = x.shape[2] // 14, x.shape[3] // 14
    weight = s["patch_embed.proj.weight"].reshape(width, -1)
    tokens = [s["cls_token"][0].expand(len(x), -1)]
    for i in range(rows):
        for j in range(columns):
            patch = x[:, :, 14 * i : 14 * i + 14, 14 * j : 14 * j + 14].reshape(len(x), -1)
            tokens.append(patch @ weight.T + s["patch_embed.proj.bias"])
    t = torch.stack(tokens, dim=1)
    square = s["pos_embed"][:, 1:].reshape(1, 37, 37, width).permute(0, 3, 1, 2)
    scale = ((rows + 0.1) / 37, (columns + 0.1) / 37)
    grid = F.interpolate(square, scale_factor=scale, mode="bicubic")
    t = t + torch.cat([s["pos_embed"][:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def norm(t, name):
        centred = t - t.mean(-1, keepdim=True)
        t = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6)
        return t * s[f"{name}.weight"] + s[f"{name}.bias"]

    def linear(t, name):
        return t @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    size = width // heads
    for n in range(depth):
        b = f"blocks.{n}"
        qkv = linear(norm(t, f"{b}.norm1"), f"{b}.attn.qkv")
        mixed = []
        for h in range(heads):
            q, k, v = (qkv[..., part * width + h * size :][..., :size] for part in range(3))
            mixed.append(torch.softmax(q @ k.transpose(1, 2) / size**0.5, dim=-1) @ v)
        t = t + linear(torch.cat(mixed, dim=-1), f"{b}.attn.proj") * s[f"{b}.ls1.gamma"]
        inner = linear(norm(t, f"{b}.norm2"), f"{b}.mlp.fc1")
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        t = t + linear(inner, f"{b}.mlp.fc2") * s[f"{b}.ls2.gamma"]
    t = norm(t, "norm")
    return t[:, 1:], t[:, 0]


@pytest.mark.parametrize("size", [(48, 84), (51, 77)])
@pytest.mark.parametrize("training", [False, True])
def test_resnet18_is_the_published_network(size, training):
    encoder = ResNet18Encoder(3, *size)
    state = randomized(encoder.backbone)
    encoder.load_published(
        {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, "file"
    )
    encoder.train(training)
    x = images(3, *size)
    with torch.no_grad():
        found, vector = encoder.features(encoder.normalized(x))
    wanted = resnet18_twin(state, imagenet(x))
    assert vector is None
    assert found.shape == (2, 512, -(-size[0] // 32), -(-size[1] // 32))
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("size", [(56, 84), (48, 84), (48, 64)])
def test_dinov2_is_the_published_network(size):
    encoder = DinoV2Encoder(3, *size, token_dim=48, depth=3, heads=4)
    state = randomized(encoder.backbone)
    encoder.load_published(state, "file")
    x = images(3, *size)
    with torch.no_grad():
        found, whole = encoder.features(encoder.normalized(x))
    rows, columns = -(-size[0] // 14), -(-size[1] // 14)
    across, down = 14 * columns - size[1], 14 * rows - size[0]
    padded = F.pad(imagenet(x), (across // 2, across - across // 2, down // 2, down - down // 2))
    patches, cls = dinov2_twin(state, padded, depth=3, heads=4)
    assert found.shape == (2, 48, rows, columns)
    assert torch.allclose(found.flatten(2).transpose(1, 2).double(), patches, atol=1e-5)
    assert torch.allclose(whole.double(), cls, atol=1e-5)


def test_names_and_shapes_are_those_of_the_published_files():
    resnet = ResNet18Encoder(3, 48, 84).backbone.state_dict()
    assert len(resnet) == 122 - 2  # torchvision's resnet18 without fc
    assert resnet["layer4.0.downsample.0.weight"].shape == (512, 256, 1, 1)
    dino = DinoV2Encoder(3, 48, 84).backbone.state_dict()
    assert len(dino) == 175
    assert sum(v.numel() for v in dino.values()) == 22_056_576  # dinov2_vits14, counted in its own code
    assert dino["pos_embed"].shape == (1, 1370, 384)
    assert {"cls_token", "mask_token", "blocks.11.ls2.gamma", "blocks.0.attn.qkv.bias"} <= dino.keys()


def test_the_small_cnn_keeps_its_names():
    names = set(build_encoder("small_cnn", (3, 48, 64), 64).state_dict())
    assert names == {f"net.{m}.{p}" for m in ("0.0", "0.2", "0.4", "1") for p in ("weight", "bias")}


# --- channels, batches, freezing, precision ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "dinov2_vits14"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_encoder_takes_depth_rgb_and_both(name, channels):
    encoder = built(name, (channels, 48, 84), 16)
    x = images(channels, 48, 84, batch=3)
    with torch.no_grad():
        found = encoder(x)
        assert torch.allclose(encoder(x.float() / 255), found, atol=1e-6)
    assert found.shape == (3, 16)
    assert not torch.allclose(found[0], found[1])


def test_depth_is_seen_as_grey_and_a_fourth_channel_starts_unseen():
    rgb = ResNet18Encoder(3, 48, 84)
    state = randomized(rgb.backbone)
    rgb.load_published(state, "file")
    grey = ResNet18Encoder(1, 48, 84)
    grey.load_published(state, "file")
    four = ResNet18Encoder(4, 48, 84)
    four.load_published(state, "file")
    one = images(1, 48, 84)
    with torch.no_grad():
        wanted = rgb.features(rgb.normalized(one.expand(-1, 3, -1, -1)))[0]
        assert torch.equal(grey.features(grey.normalized(one))[0], wanted)
        both = torch.cat([one.expand(-1, 3, -1, -1), images(1, 48, 84, seed=3)], dim=1)
        assert torch.allclose(four.features(four.normalized(both))[0], wanted, atol=1e-4)
    assert four.backbone.conv1.weight.shape == (64, 4, 7, 7)
    assert not four.backbone.conv1.weight[:, 3].any()


def test_two_channels_have_no_published_weights():
    encoder = ResNet18Encoder(2, 48, 84)
    with pytest.raises(InputError, match="have 2 channels, expected 1, 3 or more"):
        encoder.load_published(ResNet18Encoder(3, 48, 84).backbone.state_dict(), "file")


def test_frozen_backbone_keeps_its_weights_while_the_head_learns():
    torch.manual_seed(0)
    encoder = build_encoder("resnet18", (3, 48, 64), 8, freeze=True)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    encoder(images(3, 48, 64)).square().sum().backward()
    optimizer.step()
    moved = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all(k.startswith("head.") for k in moved)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "dinov2_vits14"])
def test_training_mode_and_batch_mates_do_not_change_a_frames_feature(name):
    """A frame has one feature in rollout and update, or importance ratios are wrong from the start."""
    encoder = built(name, (3, 48, 64), 8)
    x = images(3, 48, 64, batch=4)
    with torch.no_grad():
        alone = encoder.eval()(x[:1])
        assert torch.allclose(encoder.train()(x)[:1], alone, atol=1e-6)


@pytest.mark.parametrize("name", ["small_cnn", "resnet18", "dinov2_vits14"])
def test_random_weights_give_features_of_ordinary_size_and_gradients_everywhere(name):
    encoder = built(name, (3, 48, 84), 32)
    out = encoder(images(3, 48, 84, batch=4))
    assert 0.01 < float(out.detach().std()) < 10
    out.square().sum().backward()
    without = {n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set()


def test_bfloat16_autocast_stays_near():
    torch.manual_seed(0)
    encoder = build_encoder("resnet18", (3, 48, 84), 16)
    x = images(3, 48, 84)
    with torch.no_grad():
        wanted = encoder(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = encoder(x)
    assert (found.float() - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_encoders_without_published_weights_or_methods_are_refused(monkeypatch):
    with pytest.raises(InputError, match=r"unknown encoder 'vgg'.*small_cnn"):
        build_encoder("vgg", (3, 48, 64), 8)
    with pytest.raises(InputError, match="has no published weights"):
        load_encoder_weights(build_encoder("small_cnn", (3, 48, 64), 8), "small_cnn", "hub")
    with pytest.raises(InputError, match=r"images of 64x30 px.*at least 36"):
        build_encoder("small_cnn", (3, 30, 64), 8)


class Mean(torch.nn.Module):
    """Somebody's own encoder: the mean colour."""

    def __init__(self, channels, height, width, feature_dim):
        super().__init__()
        self.shape, self.feature_dim = (channels, height, width), feature_dim

    def forward(self, images):
        return images.float().mean((2, 3))[:, : self.feature_dim]


def test_an_encoder_of_ones_own(monkeypatch):
    monkeypatch.setitem(ENCODERS.own, "mean", Mean)
    x = images(3, 8, 8)
    assert np.allclose(build_encoder("mean", (3, 8, 8), 3)(x), x.float().mean((2, 3)))
    with pytest.raises(InputError, match=r"gives \[1, 3\] for one image .* expected \[1, 5\]"):
        build_encoder("mean", (3, 8, 8), 5)
    with pytest.raises(InputError, match=r"has no freeze\(\)"):
        build_encoder("mean", (3, 8, 8), 3, freeze=True)
