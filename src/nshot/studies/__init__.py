"""The paper's tables and figures as runs: one small file each, and what runs and collects them."""
