"""scGPT: checkpoints, the model, pretraining, fine-tuning and the methods that predict with it."""
