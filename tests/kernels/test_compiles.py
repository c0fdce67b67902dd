"""The kernels compiled for GPUs that are not there: the interpreter checks neither types nor what a GPU can hold."""

import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("triton", reason="the kernels need triton: pip install 'subquadratic[triton]'")

SHARED_MEMORY = 99 * 1024  # of one block on consumer GPUs since Ampere

# Launches are caught where they would reach a driver, and compiled for a target by name. Each gives a line: its kernel, its shared memory.
CATCH = """
    import sys, torch, triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    NAMES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int64: "*i64"}
    CAPABILITY, DTYPE, PACKED = int(sys.argv[1]), getattr(torch, sys.argv[2]), sys.argv[3] == "packed"

    def compile_only(self, *args, grid, warmup, **options):
        given = dict(zip(self.arg_names, args)) | {name: options.pop(name) for name in self.arg_names if name in options}
        signature, constants = {}, {}
        for i, parameter in enumerate(self.params):
            value = given[parameter.name]
            if parameter.is_constexpr or value is None:
                signature[parameter.name], constants[(i,)] = "constexpr", value
            else:
                signature[parameter.name] = NAMES[value.dtype] if isinstance(value, torch.Tensor) else "i32"
        source = ASTSource(self, signature, constants, {})
        compiled = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=options)
        print(self.fn.__name__, compiled.metadata.shared)

    JITFunction.run = compile_only
    LENGTH, HEADS, WIDTH = 100, 2, 64
    cu_seqlens = torch.tensor([0, 40, 100]) if PACKED else None
    documents = 2 if PACKED else 1

    def rows(*shape):
        return torch.rand(1, LENGTH, HEADS, *shape).transpose(1, 2).to(DTYPE).requires_grad_()

    def zeros(*shape):
        return torch.zeros(documents, HEADS, *shape)
"""
CALLS = {
    "linear_attention": """
        from subquadratic.attention.favor.triton import gated_linear_attention
        features = 256
        output = gated_linear_attention(
            rows(features), rows(features), rows(WIDTH), torch.zeros(1, HEADS, LENGTH), zeros(features, WIDTH), zeros(features), zeros(1),
            cu_seqlens=cu_seqlens,
        )[0]
    """,
    "prefix_softmax": """
        from subquadratic.attention.additive.triton import running_softmax_mean
        output = running_softmax_mean(rows(), rows(WIDTH), zeros(1), zeros(1), zeros(WIDTH), cu_seqlens=cu_seqlens)[0]
    """,
    "slot_attention": """
        from subquadratic.attention.low_rank.triton import causal_slot_attention
        slots = 256
        weights = torch.rand(LENGTH, slots).to(DTYPE)
        state = zeros(slots, WIDTH), zeros(slots, WIDTH)
        output = causal_slot_attention(rows(WIDTH), rows(WIDTH), rows(WIDTH), weights, weights, *state, cu_seqlens=cu_seqlens)[0]
    """,
}
KERNELS = {"linear_attention": 6, "prefix_softmax": 5, "slot_attention": 7}  # launches of different kernels, forward and backward


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="triton brings its assembler on Linux only")
@pytest.mark.parametrize(("capability", "dtype", "packed"), [(80, "bfloat16", False), (80, "float32", True), (90, "bfloat16", True)])
@pytest.mark.parametrize("name", CALLS)
def test_compiles_for_a_gpu_and_fits(name: str, capability: int, dtype: str, packed: bool) -> None:
    code = textwrap.dedent(CATCH) + textwrap.dedent(CALLS[name]) + "\noutput.float().sum().backward()\n"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code, str(capability), dtype, "packed" if packed else "plain"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    memory = {kernel: int(size) for kernel, size in (line.split() for line in done.stdout.splitlines())}
    assert len(memory) == KERNELS[name]
    assert max(memory.values()) <= SHARED_MEMORY, memory
