"""Stored outputs and gradients of models that candle-transformers has: tests/candle-transformers/data/.

A ViT and a BERT of transformers, a ConvNeXt of timm, small, in f64. Their weights follow from their
names by `numbers` of reference_ops, which the tests compute too. Stored are, of the output and of the
gradient by every parameter of Σ output · shares, the largest number's size and at most 64 numbers.

`scripts/reference foreign` runs it, in a Python that has `reference-foreign-requirements.txt`.
"""

import math
import pathlib

import reference_ops

TARGET = pathlib.Path(__file__).resolve().parent.parent / "tests/candle-transformers/data"


def vit():
    """The ViT of `vit_config`."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, hidden_act="gelu",
        layer_norm_eps=1e-6, image_size=16, patch_size=4, num_channels=3, qkv_bias=True, num_labels=5,
        attn_implementation="eager",
    )  # fmt: skip
    return ViTForImageClassification(config)


def bert():
    """The BERT of `bert_config`."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=16, layer_norm_eps=1e-6, attn_implementation="eager",
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False)


def convnext():
    """ConvNeXt atto, without what comes after its features."""
    import timm
    import torch

    model = timm.create_model("convnext_atto", pretrained=False, num_classes=0)
    model.head = torch.nn.Identity()
    return model


def share_weights(module):
    """Gives every parameter the numbers that follow from its name."""
    import torch

    with torch.no_grad():
        for name, parameter in module.state_dict().items():
            seed = 0
            for byte in name.encode():
                seed = (seed * 31 + byte) % 2**32
            values = reference_ops.numbers(tuple(parameter.shape), seed)
            if parameter.dim() <= 1:
                around_one = name.endswith(("weight", "gamma", "running_var"))
                values = values * 0.3 + 1 if around_one else values * 0.2
            else:
                values = values * math.sqrt(3 / math.prod(parameter.shape[1:]))
            # As the tests round them.
            parameter.copy_(values.float())
    return module.double().eval()


def sample(tensor):
    """What is stored of a tensor."""
    import torch

    values = tensor.detach().flatten()
    step = math.ceil(values.numel() / 64)
    return torch.cat([values.abs().max()[None], values[::step]]).float().contiguous()


def write_case(name, module, forward):
    """Stores the output of `forward` and the gradients."""
    from safetensors.torch import save_file

    output = forward(module)
    shares = reference_ops.numbers(tuple(output.shape), 99)
    (output * shares).sum().backward()
    stored = {"output": sample(output)} | {key: sample(parameter.grad) for key, parameter in module.named_parameters()}
    save_file(stored, TARGET / f"{name}.safetensors")
    print(f"{name}: {len(stored) - 1} parameters")


def main():
    import torch

    TARGET.mkdir(parents=True, exist_ok=True)
    write_case("vit", share_weights(vit()), lambda module: module(reference_ops.numbers((3, 3, 16, 16), 1)).logits)
    words = torch.tensor([(i * 17 + 3) % 50 for i in range(14)]).reshape(2, 7)
    kinds = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]])
    write_case("bert", share_weights(bert()), lambda module: module(words, mask, kinds).last_hidden_state)
    write_case(
        "convnext",
        share_weights(convnext()),
        lambda module: module.forward_features(reference_ops.numbers((2, 3, 64, 64), 1)).mean((2, 3)),
    )


if __name__ == "__main__":
    main()
