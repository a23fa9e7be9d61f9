"""The authors' learning-rate schedule, step by step, as a reference for `EpochDecaySchedule`.

Gong, Chung and Glass (2021). `src/traintest.py` of YuanGongND/ast keeps one mutable rate, sets it
during warm-up, and multiplies it at the end of the epochs that are listed as milestones.
"""


def simulate(
    base, steps_per_epoch, num_epochs, start, every, decay, warmup_steps=0, update_steps=50
):
    """Returns the learning rate of every optimizer step of a run, a list of floats."""
    milestones = list(range(start, 1000, every))
    rate, step, rates = base, 0, []
    for epoch in range(1, num_epochs + 1):
        for _ in range(steps_per_epoch):
            if warmup_steps and step <= warmup_steps and step % update_steps == 0:
                rate = step / warmup_steps * base
            rates.append(rate)
            step += 1
        if epoch in milestones:
            rate = rate * decay
    return rates
