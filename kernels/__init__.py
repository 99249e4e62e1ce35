"""Triton kernels: one module per op, its functions with exactly the signature of the torch op.

The modules need triton, this package does not. They take CUDA tensors and, with TRITON_INTERPRET=1 set before the
first import of triton, CPU tensors, slowly, for tests.
"""
