"""Knowledge Condensation Distillation in a plain PyTorch loop, without transformers: seconds on a CPU.

python examples/plain_loop.py [FOLDER_OF_THE_MASK]
"""

import sys

import timm
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from hf_kcd.condensation import KCDConfig, KnowledgeCondenser
from hf_kcd.data import KnowledgeDataset, collate, load_image_data
from hf_kcd.losses import kd_loss

torch.manual_seed(0)
data = load_image_data("digits")
dataset = KnowledgeDataset(data.train, data.preprocessing)
loader = DataLoader(dataset, batch_size=32, shuffle=True, collate_fn=collate)  # It shrinks with its data set.
teacher = timm.create_model("cifar_resnet20", num_classes=10)
student = timm.create_model("cifar_resnet8", num_classes=10)


def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


optimizer = torch.optim.SGD(teacher.parameters(), lr=0.02, momentum=0.9)
for epoch in range(3):
    dataset.set_epoch(epoch)  # The augmentation depends on it.
    for batch in loader:
        step(optimizer, F.cross_entropy(teacher(batch["pixel_values"]), batch["labels"]))
teacher.eval()

config = KCDConfig(final_ratio=0.7, epochs_per_stage=2)
condenser = KnowledgeCondenser(config, num_points=len(dataset), num_epochs=6, dataset=dataset.identity)
optimizer = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9)
for epoch in range(6):
    dataset.set_epoch(epoch)
    for batch in loader:
        with torch.no_grad():
            teacher_logits = teacher(batch["pixel_values"])
        student_logits = student(batch["pixel_values"])
        hard = F.cross_entropy(student_logits, batch["labels"])
        step(optimizer, 0.1 * hard + 0.9 * kd_loss(student_logits, teacher_logits, temperature=4.0))
        condenser.observe(batch["point_ids"], student_logits, teacher_logits, batch["labels"])
    print(f"epoch {epoch + 1}: trained on {len(dataset)} points")
    selection = condenser.end_epoch()
    if selection is not None:
        dataset.select(selection)

test_set = KnowledgeDataset(data.eval, data.preprocessing, training=False)
(test,) = DataLoader(test_set, batch_size=len(test_set), collate_fn=collate)
with torch.no_grad():
    correct = student.eval()(test["pixel_values"]).argmax(1) == test["labels"]
print(f"top-1 of the student: {correct.float().mean():.1%}")
condenser.mask().save_pretrained(sys.argv[1] if len(sys.argv) > 1 else "mask")
