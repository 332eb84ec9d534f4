"""The chain of the methods on a folder of X-rays: segment, restore, check, measure, compare and report."""
