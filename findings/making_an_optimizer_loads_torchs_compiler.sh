#!/usr/bin/env bash
# torch 2.14.1, torchvision 0.29.1, lightning-fabric 2.6.6 (Python 3.11, Linux, CPU).
#
# `import torch` alone does not load torch's compiler (`torch._dynamo`); but making any optimizer does, and so does
# importing torchvision (and with it all that needs it, such as timm) or Lightning Fabric. It takes about as long as
# torch itself, so a program that compiles nothing and trains one step pays for it all the same: who looks for the cause
# in the trainer library alone, and leaves it out, gains nothing, since the optimizer comes next. Not loading it:
# `torch.compiler.is_compiling()`, `torch.func.vmap`, `torch.optim.swa_utils.AveragedModel`, a DataLoader. Loading it
# without compiling anything: `torch.compiler.set_stance("force_eager")`.
#
# Seen (True: torch._dynamo is in sys.modules afterwards):
#   False  import torch
#   True   torch.optim.SGD(...)
#   True   torch.optim.AdamW(...)
#   True   import torchvision
#   True   import lightning_fabric
#   True   torch.compiler.set_stance
#   False  is_compiling, vmap, AveragedModel, DataLoader
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet 'torch==2.14.1' 'torchvision==0.29.1' 'lightning-fabric==2.6.6' 'numpy==2.4.6'
cd "$folder"
said() {  # said TITLE STATEMENTS: whether the compiler is there afterwards, in a process of its own
  printf '%-6s %s\n' "$(venv/bin/python -W ignore -c "$2"$'\n''import sys; print("torch._dynamo" in sys.modules)')" "$1"
}
weights='import torch; w = [torch.zeros(2, requires_grad=True)]'
{
  said 'import torch' 'import torch'
  said 'torch.optim.SGD(...)' "$weights; torch.optim.SGD(w, 0.1)"
  said 'torch.optim.AdamW(...)' "$weights; torch.optim.AdamW(w)"
  said 'import torchvision' 'import torchvision'
  said 'import lightning_fabric' 'import lightning_fabric'
  said 'torch.compiler.set_stance' 'import torch; torch.compiler.set_stance("force_eager")'
  said 'is_compiling, vmap, AveragedModel, DataLoader' 'import torch
torch.compiler.is_compiling()
torch.func.vmap(lambda x: 2 * x)(torch.zeros(2))
torch.optim.swa_utils.AveragedModel(torch.nn.Linear(1, 1))
torch.utils.data.DataLoader([1.0])'
} | tee seen
diff seen - <<'SEEN'
False  import torch
True   torch.optim.SGD(...)
True   torch.optim.AdamW(...)
True   import torchvision
True   import lightning_fabric
True   torch.compiler.set_stance
False  is_compiling, vmap, AveragedModel, DataLoader
SEEN
echo 'as described'
