"""Keys that move no memory of the card, format by format.

What is in none of these, and is read by nobody, is listed with the report.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACCELERATE = _words(
    """
    command_file commands compute_environment debug downcast_bf16 enable_cpu_affinity
    gpu_ids machine_rank main_process_ip main_process_port main_training_function
    num_machines rdzv_backend same_network tpu_cluster tpu_env tpu_name tpu_use_cluster
    tpu_use_sudo tpu_vm tpu_zone use_cpu
    """
)
FSDP = _words(
    """
    backward_prefetch backward_prefetch_policy cpu_ram_efficient_loading
    min_num_params state_dict_type sync_module_states transformer_layer_cls_to_wrap
    transformer_cls_names_to_wrap use_orig_params xla xla_fsdp_grad_ckpt
    xla_fsdp_settings xla_fsdp_v2
    """
)
"""Without `fsdp_` before them. Prefetching is told by "FSDP1"; FSDP2 has its own."""
PARALLELISM = _words(
    """
    cp_attn_implementation cp_comm_strategy cp_seq_length cp_seq_length_is_variable
    sp_attn_implementation sp_backend sp_seq_length sp_seq_length_is_variable
    """
)
DEEPSPEED_BY_ACCELERATE = _words(
    """
    deepspeed_exclusion_filter deepspeed_hostfile deepspeed_inclusion_filter
    deepspeed_moe_layer_cls_names deepspeed_multinode_launcher
    offload_optimizer_nvme_path offload_param_nvme_path zero3_init_flag
    zero3_save_16bit_model
    """
)
DEEPSPEED = _words(
    """
    aio checkpoint comms_config comms_logger csv_monitor disable_allgather dump_state
    flops_profiler gradient_predivide_factor memory_breakdown monitor_config
    prescale_gradients scheduler seed steps_per_print tensorboard timers
    use_node_local_storage wall_clock_breakdown wandb zero_allow_untested_optimizer
    zero_force_ds_cpu_optimizer
    """
)
DEEPSPEED_ZERO = _words(
    """
    cpu_offload cpu_offload_param cpu_offload_use_pin_memory elastic_checkpoint
    enable_sanity_checks ignore_unused_parameters load_from_fp32_weights
    log_trace_cache_warnings override_module_apply pipeline_loading_checkpoint
    round_robin_gradients stage3_allgather_sequential
    stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save
    """
)
DEEPSPEED_OFFLOAD = _words(
    """
    buffer_count buffer_size cpuadam_cores_perc device fast_init max_in_cpu nvme_path
    pin_memory pipeline pipeline_read pipeline_write
    """
)
DEEPSPEED_PRECISION = _words(
    """
    auto_cast check_grad_overflow consecutive_hysteresis hysteresis
    initial_scale_power loss_scale loss_scale_window min_loss_scale opt_level
    """
)

PEFT = _words(
    """
    alpha_pattern arrow_config auto_mapping corda_config ensure_weight_tying
    eva_config fan_in_fan_out inference_mode init_lora_weights loftq_config
    lora_alpha lora_ga_config megatron_core peft_version qalora_group_size
    task_type use_rslora
    """
)
"""Scales and starting values, and what is written down for the record."""
BITSANDBYTES = _words(
    """
    _load_in_4bit _load_in_8bit bnb_4bit_blocksize quant_method
    """
)
TORCHTITAN_TABLES = _words(
    """
    checkpoint comm debug float8 job lr_scheduler memory_estimation metrics mx
    profiling quantize
    """
)
"""Conversions (float8, mx, quantize) do nothing without their converter."""
TORCHTITAN = _words(
    """
    backend beta1 beta2 context_parallel_load_balancer data_parallel_type
    dataloader dataset dataset_path debug decay_ratio determinism_check
    deterministic early_stop eps gc_debug gc_freq hf_assets_path lr
    mixed_precision_reduce norm_type preserve_rng_state print_after_conversion
    seed steps tokenizer_path warmup_steps weight_decay
    """
)
"""In all of the other tables."""
TORCHTITAN_PIPELINES = _words(
    """
    module_fqns_per_model_part pipeline_parallel_expert_parallel_overlap
    pipeline_parallel_first_stage_less_layers
    pipeline_parallel_last_stage_less_layers pipeline_parallel_layers_per_stage
    pipeline_parallel_microbatch_size pipeline_parallel_schedule
    pipeline_parallel_schedule_csv pipeline_parallel_split_points
    """
)
TORCHTITAN_CHECKPOINTS = _words(
    """
    memory_budget per_op_sac_force_recompute_mm_shapes_by_fqns
    selective_ac_option visualize_memory_budget_pareto
    """
)
TORCHTUNE = _words(
    """
    checkpoint checkpointer cudnn_deterministic_mode device
    enable_async_checkpointing epochs keep_last_n_checkpoints log_every_n_steps
    log_level log_peak_memory_stats low_cpu_ram lr lr_scheduler
    max_steps_per_epoch metric_logger model_checkpoint output_dir profiler
    resume_from_checkpoint save_adapter_weights_only save_every_n_steps seed
    shuffle tokenizer_checkpoint weight_decay
    """
)
TORCHTUNE_MODEL = _words(
    """
    attn_dropout lora_alpha
    """
)
TORCHTUNE_OPTIMIZER = _words(
    """
    betas eps foreach lr momentum weight_decay
    """
)
