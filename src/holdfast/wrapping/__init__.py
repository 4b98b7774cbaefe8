"""All of ours around one application that need not know of it, as ``holdfast serve`` has it."""
