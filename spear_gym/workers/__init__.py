"""Work in other processes: tasks, their threads, and the tensors that they share."""
