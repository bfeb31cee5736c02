"""The rule of an update: AdamW, its learning rate, the average of the weights, scales for fp16."""
