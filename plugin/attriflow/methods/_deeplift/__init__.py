"""DeepLIFT in two passes: its rules, the tape of a recorded pass, paired passes, products by rows."""
