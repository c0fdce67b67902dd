"""Claims of "Linformer: Self-Attention with Linear Complexity"."""

from __future__ import annotations

from .claim import Claim, Condition, Paper
from .conditions import needs_attention

PAPER = Paper(name="Linformer", arxiv="2006.04768")
HALVES = (
    "Masked rows whose second half is the first again, instead of the paper's text: on windows of source code, a model without attention "
    "did as well as any after minutes of training. Without attention such a token costs log 32 = 3.47 nats; models still learn at the end."
)
GRID = tuple((n, k) for n in (512, 1024, 2048, 4096) for k in (128, 256, 512, 1024, 2048) if k <= max(n // 2, 256) and k < n)
RIGHT = Condition(number="difference", text="difference of the timed layer from the equation, relative", most=1e-4)

CLAIMS = (
    Claim(
        id="linformer.equation",
        paper=PAPER,
        place="",
        text=(
            "The layer computes softmax(Q (EᵀK)ᵀ / √d) (FᵀV), whatever shares a projection; in our causal form, with sums up to each "
            "position."
        ),
        experiment="low_rank.equation",
        conditions=(
            Condition(number="float64", text="difference from the equation, relative, at worst, float64", most=1e-9),
            Condition(number="float32", text="the same in float32, by the C kernels where there are some", most=1e-5),
        ),
        seconds=1,
    ),
    Claim(
        id="linformer.projection",
        paper=PAPER,
        place="Theorem 1",
        text=(
            "Attention can be replaced by one of rank k: the error of a random projection falls as 1/√k, and with k = 5 log n / "
            "(ε² − ε³) it is below ε ‖Pw‖ for any w."
        ),
        printed="k = 5 log(n) / (ε² − ε³)",
        source="read",
        experiment="low_rank.projections",
        conditions=(
            Condition(number="slope", text="slope of log error against log k", least=-0.55, most=-0.45),
            Condition(
                number="over theory", text="squared error over what the variance of R gives, float64 or float32", least=0.9, most=1.1
            ),
            Condition(number="within, of one sign", text="share of columns w of one sign within ε ‖Pw‖ at that k, ε = 0.5", least=0.99),
            Condition(number="within, Gaussian", text="the same of Gaussian w", least=0.99),
        ),
        seconds=5,
        note=(
            "The error of a product a·b under a random projection is about ‖a‖ ‖b‖ / √k, of whatever size a·b is: that is what the lemma "
            "of Johnson and Lindenstrauss bounds. It is small beside Pw where nothing cancels, as for w of one sign; the average of random "
            "numbers that attention takes of a Gaussian w is itself small. So the theorem needs a Pw of the size of ‖P‖ ‖w‖."
        ),
    ),
    Claim(
        id="linformer.spectrum",
        paper=PAPER,
        place="figure 1",
        text="Most of the mass of a trained model's attention matrices of 512 positions lies in the first 128 singular values.",
        experiment="spectrum.spectrum",
        conditions=(
            Condition(number="share", text="share of the sum of singular values in the first 128, mean over heads", least=0.5),
            Condition(number="over shuffled", text="the same less that of the same weights, each row shuffled for itself", least=0.1),
            Condition(number="loss", text="training loss at the end, nats per hidden byte (byte frequencies alone give 3.1)", most=2.7),
        ),
        seconds=95,
        note=(
            "The paper's model is RoBERTa; ours is small and trained for minutes. A large share alone says little: attention that is "
            "nearly uniform, as before training, is of rank one, and random attention of full rank has about half of its mass there, too. "
            "So the claim asks for more than the weights would have without their order."
        ),
    ),
    Claim(
        id="linformer.linear",
        paper=PAPER,
        place="section 4, table 3",
        text="With k fixed, time grows linearly with the length.",
        experiment="table3.times",
        conditions=(
            Condition(number="slope", text="slope of log time against log length, k = 256, 1,024 to 4,096", least=0.8, most=1.15),
            RIGHT,
        ),
        seconds=150,
    ),
    Claim(
        id="linformer.table3_time",
        paper=PAPER,
        place="table 3",
        text="Inference is 1.3 to 3.4 times as fast as with exact attention at 512 to 4,096 positions, k = 128 to 2,048.",
        printed="1.5, 1.3 (n = 512); 1.7, 1.6, 1.3; 2.6, 2.4, 2.1, 1.3; 3.4, 3.2, 2.8, 2.2, 1.3 (n = 4,096)",
        source="read",
        experiment="table3.times",
        conditions=(
            *(
                Condition(
                    number=f"time, n = {n}, k = {k}",
                    text=f"times as fast as eager attention over printed, n = {n:,}, k = {k:,}",
                    least=0.75,
                )
                for n, k in GRID
            ),
            RIGHT,
        ),
        seconds=150,
        note=(
            "On a CPU instead of a V100, with a batch of one; the width is ours, since the paper's text names none for this table. Eager "
            "attention to 8,192 positions would take about 10 GB."
        ),
    ),
    Claim(
        id="linformer.table3_memory",
        paper=PAPER,
        place="table 3",
        text="Inference takes 1.5 to 14 times less memory than exact attention at 512 to 4,096 positions, k = 128 to 2,048.",
        printed="1.7, 1.5 (n = 512); 3.0, 2.9, 1.8; 6.1, 5.6, 3.6, 2.0; 14, 13, 8.3, 4.3, 2.3 (n = 4,096)",
        source="read",
        experiment="table3.memory",
        conditions=(
            *(
                Condition(
                    number=f"memory, n = {n}, k = {k}",
                    text=f"times less memory than eager attention over printed, n = {n:,}, k = {k:,}",
                    least=0.75,
                )
                for n, k in GRID
            ),
            RIGHT,
        ),
        seconds=150,
        note="The paper counts how many sequences fit into 16 GB; here it is the peak of one forward pass above what was there before.",
    ),
    Claim(
        id="linformer.fused",
        paper=PAPER,
        place="",
        text="Inference is faster than with PyTorch's fused attention from 2,048 positions on, k = 128 and 256.",
        experiment="table3.times",
        conditions=(
            *(
                Condition(
                    number=f"over SDPA, n = {n}, k = {k}",
                    text=f"times as fast as scaled_dot_product_attention, n = {n:,}, k = {k}",
                    least=1.0,
                )
                for n in (2048, 4096)
                for k in (128, 256)
            ),
            RIGHT,
        ),
        seconds=150,
        note="Fused attention, which forms no matrix of all pairs, is younger than the paper; in memory there is then little to save.",
    ),
    Claim(
        id="linformer.slots",
        paper=PAPER,
        place="figure 3",
        text="Quality grows with k, and at a quarter of the length is nearly on par with exact attention.",
        printed="k = 128 at n = 512 and k = 256 at n = 1,024 nearly on par with the Transformer",
        source="read",
        experiment="slots.by_count",
        conditions=(
            needs_attention(1.0, "nats per hidden token, exact attention"),
            Condition(number="least less a quarter", text="loss with k = 4 less that with k = 16, nats", least=0.1),
            Condition(
                number="gap to exact", text="loss with k = 16, a quarter of the length, less that of exact attention, nats", most=0.1
            ),
        ),
        seconds=210,
        note=HALVES,
    ),
    Claim(
        id="linformer.sharing",
        paper=PAPER,
        place="section 4, table 2",
        text="Sharing the projection between keys and values, or between all layers, costs no quality.",
        printed="mean accuracy at n = 512, k = 256: 92.08, shared 92.03, one for all layers 92.30",
        source="read",
        experiment="slots.sharing",
        conditions=(
            needs_attention(0.5, "nats per hidden token, two projections in each layer"),
            Condition(number="kv", text="loss with one projection a layer less that with two, nats", most=0.1),
            Condition(number="layer", text="the same with one for all layers, nats", most=0.1),
        ),
        seconds=210,
        note=HALVES,
    ),
)
