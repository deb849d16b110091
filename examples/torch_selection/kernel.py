def kernel_a(x):
    return x * 2


def kernel_b(x):
    return x + 1


class Model:
    def method_a(self, x):
        return x

    def method_b(self, x):
        return x * x
