"""What the plan takes as given: sizes read in the installed libraries, and assumptions about hardware.

Each figure says where it comes from. *assumed* ones were not measured here (no GPU); ``rft plan --calibrate RUN``
replaces what a run measured. Bytes, seconds, FLOP/s, bytes/s.
"""

# --- DeepSpeed 0.18.5's defaults, which "auto" in OpenRLHF's configuration comes to (runtime/zero/config.py) ---
MAX_LIVE_PARAMETERS = 1_000_000_000  # stage3_max_live_parameters and _max_reuse_distance
PREFETCH_ELEMENTS = 50_000_000  # stage3_prefetch_bucket_size
REDUCE_BUCKET_ELEMENTS = 500_000_000  # allocated whole on the GPU by stage3.py where gradients are contiguous

RESIDENT_CHUNK_EXPERTS = 32  # rft.resident.products.CHUNK_EXPERTS, which imports torch (a test compares them)

# --- processes: their sum is what three tiny runs took (peak_pss_bytes 11.0 GB); how it is shared out is assumed ---
GPU_CONTEXT_BYTES = int(1.5e9)  # assumed: CUDA context, cuBLAS workspaces, NCCL buffers of one process
ALLOCATOR_SLACK = 0.05  # assumed: share of the moment's bytes that torch's caching allocator holds unused
RANK_BASE_BYTES = int(1.2e9)  # assumed: resident set of an actor rank before its model (Ray, DeepSpeed, vLLM imported)
ENGINE_BASE_BYTES = int(1.4e9)  # assumed: of each vLLM process: the engine's core and a worker a rank
OTHER_BASE_BYTES = int(4.5e9)  # assumed: Ray's head and agents, the trainer, the launcher
RANK_GPU_HOST_BYTES = int(2.0e9)  # assumed: what the CUDA libraries add to a rank or worker on a GPU machine

CPU_KERNELS_BYTES = int(25e6)  # measured: what oneDNN compiles and keeps for the shapes of a step (benchmarks/plan.py)

# --- engine: vLLM 0.15.1 ---
ENGINE_PADDING = 64  # intermediate size a rank, rounded up (quantization/mxfp4.py, Triton on Hopper)
ENGINE_BATCHED_TOK = 8192  # max_num_batched_tokens of the profiling pass that reserves activations
ENGINE_SEQUENCES = 256  # max_num_seqs
CUDA_GRAPH_BYTES = int(1.0e9)  # assumed

# --- disk ---
TOKENIZER_BYTES = int(28e6)  # tokenizer.json of gpt-oss
RESUME_BYTES_PER_PARAMETER = 12  # fp32 master weight and two Adam moments, over all ranks (a tiny checkpoint: test)

# --- hardware, for the step time: an H100 SXM with PCIe 5; shares are assumed ---
PEAK_FLOPS = 989e12  # bf16, dense
COMPUTE_SHARE = 0.35  # of it, for large matrix products in training
HBM_BYTES_PER_S = 3.35e12
HBM_SHARE = 0.6  # of it, for decode
PCIE_BYTES_PER_S = 12e9  # one rank's copy from pageable host memory (--offload does not pin its slices)
NVLINK_BYTES_PER_S = 200e9  # received by one rank in an all-gather
DECODE_OVERHEAD_S = 4e-3  # a decode step's launches and scheduling under CUDA graphs
DECODE_EAGER_OVERHEAD_S = 25e-3
EXPERT_LAUNCH_S = 20 * 8e-6  # transformers' loop: some 20 kernels an expert, launched one after the other
RESIDENT_LAUNCH_S = 30 * 8e-6  # grouped products: kernels a layer
SYNC_S = 0.1
CHECKPOINT_BYTES_PER_S = 0.5e9
