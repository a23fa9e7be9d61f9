"""Adam with L2 regularisation in NumPy float64, as a reference for `AdamL2`.

Follows the description of `torch.optim.Adam` without amsgrad: the decay is added to the gradient,
and epsilon to the square root of the bias-corrected second moment.
"""

import numpy as np


class Adam:
    """Updates one float64 array in place with every call of `step`."""

    def __init__(self, shape, beta_1=0.95, beta_2=0.999, epsilon=1e-8, l2=5e-7):
        self.beta_1, self.beta_2, self.epsilon, self.l2 = beta_1, beta_2, epsilon, l2
        self.first, self.second, self.count = np.zeros(shape), np.zeros(shape), 0

    def step(self, parameter, gradient, learning_rate):
        self.count += 1
        gradient = np.asarray(gradient, np.float64) + self.l2 * parameter
        self.first = self.beta_1 * self.first + (1 - self.beta_1) * gradient
        self.second = self.beta_2 * self.second + (1 - self.beta_2) * gradient**2
        first = self.first / (1 - self.beta_1**self.count)
        second = self.second / (1 - self.beta_2**self.count)
        parameter -= learning_rate * first / (np.sqrt(second) + self.epsilon)
