"""What PyTorch and the devices need: quick imports, matrices, copies to the device, captured passes, lack of memory."""
