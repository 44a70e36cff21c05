"""Stored outputs of torchvision's ResNet-18: candle_course/tests/data/nn/resnet18.safetensors.

Its weights follow from their names by `numbers` of reference_ops, which the tests compute too. Stored
are the shapes of all that a `state_dict` holds, and the logits in evaluation and in training mode,
computed in f64.

`scripts/reference nn` runs it.
"""

import math

import reference_ops

TARGET = reference_ops.ROOT / "candle_course/tests/data/nn/resnet18.safetensors"


def main():
    import torch
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    module = resnet18(num_classes=10)
    stored = {}
    with torch.no_grad():
        for name, parameter in module.state_dict().items():
            stored[f"shape.{name}"] = torch.tensor(list(parameter.shape), dtype=torch.int64)
            if name.endswith("num_batches_tracked"):
                continue
            seed = 0
            for byte in name.encode():
                seed = (seed * 31 + byte) % 2**32
            values = reference_ops.numbers(tuple(parameter.shape), seed % 100_000)
            if parameter.dim() <= 1:
                values = values * 0.3 + 1 if name.endswith(("weight", "running_var")) else values * 0.2
            else:
                values = values * math.sqrt(3 / math.prod(parameter.shape[1:]))
            parameter.copy_(values.float())
        module.double()
        xs = reference_ops.numbers((2, 3, 64, 64), 1)
        stored["evaluation"] = module.eval()(xs).float()
        stored["training"] = module.train()(xs).float()
    save_file(stored, TARGET)
    print(f"resnet18: {len(stored) - 2} tensors, logits up to {stored['evaluation'].abs().max():.2f} and {stored['training'].abs().max():.2f}")


if __name__ == "__main__":
    main()
