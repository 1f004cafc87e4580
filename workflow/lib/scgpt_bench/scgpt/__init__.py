"""scGPT: checkpoints, the model, how it is run, pretrained and fine-tuned, and the arms in which it takes part."""
