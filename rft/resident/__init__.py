"""gpt-oss experts that stay MXFP4 on the training device: 4.25 bits a weight, dequantised in forward and backward.

`experts` is the module, `routing`, `products` and `swiglu` are its three steps, `kernels` their form on a GPU, `lora`
puts PEFT adapters on it. Weights are frozen: backward gives the gradients of the input and of the router's weights.

Shapes, in all of them: T tokens, K experts a token, S = T*K routed rows, E experts, H hidden size, I intermediate size.
"""
