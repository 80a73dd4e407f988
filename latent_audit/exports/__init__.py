"""A finished run in the forms that other tools read: model card, Inspect log, TensorBoard, W&B, the hub."""
