"""What is looked at during training, besides losses and accuracies."""
