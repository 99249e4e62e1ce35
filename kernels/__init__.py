"""Triton kernels: one module per op, its functions with exactly the signature of the torch op.

What several of them share: plane (maps in memory), launch (blocks), slices (the arithmetic of an axis), profiles (maps
read and written as profiles), attention (the arithmetic of the gate), slice_attention (the gate on profiles).
The modules need triton, this package does not. They take CUDA tensors and, with TRITON_INTERPRET=1 set before the
first import of triton, CPU tensors, slowly, for tests.
"""
