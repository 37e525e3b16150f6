"""A BERT of `transformers`, from its configuration, that tells which package of the standard library a text is from."""

import argparse
import sysconfig
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

import meshwright as mw

PACKAGES = ("asyncio", "email", "tkinter", "unittest")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--length", type=int, default=128)
args = parser.parse_args()


def pieces(label):
    files = sorted((Path(sysconfig.get_path("stdlib")) / PACKAGES[label]).glob("*.py"))
    text = torch.tensor(list(b"".join(file.read_bytes() for file in files)))
    for ids in text.split(args.length)[:-1]:
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor(label)}


torch.manual_seed(0)
dataset = [piece for label in range(len(PACKAGES)) for piece in pieces(label)]
order = torch.randperm(len(dataset)).tolist()
train, held_out = [dataset[place] for place in order[256:]], [dataset[place] for place in order[:256]]
loader = DataLoader(train, batch_size=args.batch, shuffle=True)

config = BertConfig(
    vocab_size=256, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
    max_position_embeddings=args.length, num_labels=len(PACKAGES),
)  # fmt: skip
model = BertForSequenceClassification(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
scheduler = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=20, num_training_steps=args.steps)
step = mw.parallel(model, optimizer, lambda model, batch: model(**batch).loss)

done = 0
while done < args.steps:
    for batch in step.batches(loader):
        value = step(batch)
        scheduler.step()
        done += 1
        if done == args.steps:
            break

step.model.eval()
with torch.no_grad():
    batches = list(DataLoader(held_out, batch_size=64))
    right = sum((step.model(**batch).logits.argmax(1) == batch["labels"]).sum() for batch in batches)
if step.is_main:
    print(f"held-out accuracy {right / len(held_out):.3f}, last loss {value:.3f}")
