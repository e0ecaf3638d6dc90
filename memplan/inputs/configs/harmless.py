"""Keys that move no memory of the card, format by format.

What is in none of these, and is read by nobody, is listed with the report.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACCELERATE = _words(
    """
    command_file commands compute_environment debug downcast_bf16
    enable_cpu_affinity gpu_ids machine_rank main_process_ip main_process_port
    main_training_function num_machines rdzv_backend same_network tpu_cluster
    tpu_env tpu_name tpu_use_cluster tpu_use_sudo tpu_vm tpu_zone use_cpu
    """
)
FSDP = _words(
    """
    backward_prefetch backward_prefetch_policy cpu_ram_efficient_loading
    min_num_params state_dict_type sync_module_states transformer_cls_names_to_wrap
    transformer_layer_cls_to_wrap use_orig_params xla xla_fsdp_grad_ckpt
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
BITSANDBYTES = _words("_load_in_4bit _load_in_8bit quant_method")
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
TORCHTUNE_MODEL = _words("lora_alpha")
TORCHTUNE_OPTIMIZER = _words("betas eps foreach lr momentum weight_decay")
TRAINING_ARGUMENTS = _words(
    """
    accelerator_config adam_beta1 adam_beta2 adam_epsilon
    average_tokens_across_devices batch_eval_metrics bf16_full_eval data_seed
    dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context
    dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory
    dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_timeout debug
    disable_tqdm do_eval do_predict do_train enable_jit_checkpoint
    eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start
    eval_steps eval_strategy eval_use_gather_object fp16_full_eval full_determinism
    greater_is_better hub_always_push hub_model_id hub_private_repo hub_revision
    hub_strategy hub_token ignore_data_skip include_for_metrics
    include_num_input_tokens_seen label_names learning_rate length_column_name
    liger_kernel_config load_best_model_at_end local_rank log_level
    log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter
    logging_steps logging_strategy lr_scheduler_kwargs lr_scheduler_type max_steps
    metric_for_best_model num_train_epochs optim_args output_dir
    per_device_eval_batch_size prediction_loss_only project push_to_hub
    remove_unused_columns report_to restore_callback_states_from_checkpoint
    resume_from_checkpoint run_name save_on_each_node save_only_model save_steps
    save_strategy save_total_limit seed skip_memory_metrics torch_compile_backend
    torch_compile_mode trackio_bucket_id trackio_space_id trackio_static_space_id
    train_sampling_strategy use_cpu warmup_steps weight_decay
    """
)
"""Of transformers 5.23. Evaluation is no part of a training step."""
OLDER_TRAINING_ARGUMENTS = _words(
    """
    dispatch_batches evaluate_during_training evaluation_strategy fp16_backend
    fp16_opt_level fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap
    group_by_length half_precision_backend hub_model_revision
    include_inputs_for_metrics include_tokens_per_second jit_mode_eval logging_dir
    no_cuda overwrite_output_dir past_index per_gpu_eval_batch_size
    push_to_hub_model_id push_to_hub_organization push_to_hub_token ray_scope
    save_safetensors tpu_metrics_debug tpu_num_cores use_ipex
    use_legacy_prediction_loop use_mps_device warmup_ratio xpu_backend
    """
)
"""Of versions before it."""
EXAMPLE_SCRIPTS = _words(
    """
    cache_dir chat_template config_name dataset dataset_config dataset_config_name
    dataset_configs dataset_dir dataset_name dataset_test_split dataset_text_field
    dataset_train_split hf_hub_token low_cpu_mem_usage max_eval_samples max_samples
    max_train_samples overwrite_cache preprocessing_num_workers streaming token
    tokenizer_name trust_remote_code use_fast_tokenizer validation_split_percentage
    """
)
"""Which data and whose weights: not how many at once, and not how they are kept."""
AXOLOTL = _words(
    """
    auto_resume_from_checkpoints axolotl_config_path base_model_config
    base_model_ignore_patterns bnb_config_kwargs chat_template chat_template_jinja
    cosine_constant_lr_ratio cosine_min_lr_ratio datasets ddp ddp_timeout debug
    default_system_message device device_map do_bench_eval do_causal_lm_eval
    early_stopping_patience embedding_lr embedding_lr_scale eot_tokens
    evals_per_epoch excess_length_strategy experimental_skip_move_to_device
    gc_steps gpu_memory_limit greater_is_better group_by_length heads_k_stride
    hf_use_auth_token include_tokens_per_second is_falcon_derived_model
    is_llama_derived_model is_mistral_derived_model is_qwen_derived_model
    learning_rate load_best_model_at_end local_rank logging_steps lora_alpha
    lora_fan_in_fan_out lora_model_dir lora_on_cpu loraplus_lr_embedding
    loraplus_lr_ratio loss_watchdog_patience loss_watchdog_threshold
    low_cpu_mem_usage max_memory max_steps
    mean_resizing_embeddings metric_for_best_model min_sample_len model_type
    num_epochs output_dir pad_to_sequence_len
    peft_init_lora_weights peft_use_rslora pretraining_dataset profiler_steps
    push_dataset_to_hub qlora_sharded_model_loading remove_unused_columns
    resume_from_checkpoint ring_attn_func sample_packing saves_per_epoch seed
    sequence_parallel_degree shuffle_merged_datasets skip_prepare_dataset
    special_tokens strict test_datasets tf32 tokenizer_config tokenizer_legacy
    tokenizer_type tokenizer_use_fast tokenizer_use_mistral_common
    torch_compile_backend torch_compile_mode torchdistx_path train_on_inputs
    trust_remote_code type_of_model use_tensorboard val_set_size
    warmup_ratio warmup_steps weight_decay world_size
    """
)
"""Of packed samples there are as many tokens as of padded ones."""
AXOLOTL_PREFIXES = tuple(
    _words(
        """
        adam_ bench_ comet_ dataloader_ dataset_ eval_ gradio_ hub_ logging_ lr_
        mlflow_ otel_ sample_packing_ save_ swanlab_ trackio_ wandb_
        """
    )
)
AXOLOTL_FSDP = _words(
    """
    cpu_offload_pin_memory final_state_dict_type forward_prefetch limit_all_gathers
    mixed_precision_policy reshard_after_forward sharding_strategy
    """
)
"""Beside those of FSDP."""
LLAMA_FACTORY = _words(
    """
    adapter_folder adapter_name_or_path compute_accuracy create_new_adapter
    disable_shuffling dpo_label_smoothing early_stopping_steps eval_dataset
    eval_num_beams eval_on_each_dataset export_device export_dir
    export_legacy_format export_size galore_layerwise galore_proj_type galore_rank
    galore_scale galore_target galore_update_interval ignore_pad_token_for_loss
    include_effective_tokens_per_second infer_backend infer_dtype interleave_probs
    kto_chosen_weight kto_rejected_weight lora_alpha loraplus_lr_embedding
    loraplus_lr_ratio mask_history media_dir mix_strategy neat_packing
    new_special_tokens_config packing pissa_convert pissa_init pissa_iter
    placement_strategy plot_loss predict_with_generate pref_beta pref_ftx pref_loss
    preprocessing_batch_size print_param_status ray_init_kwargs ray_num_workers
    ray_run_name ray_storage_path resources_per_worker rope_scaling
    split_special_tokens template tokenized_path tool_format train_on_prompt
    use_kv_cache use_reentrant_gc use_rslora use_swanlab val_size
    """
)
TRL = _words(
    """
    assistant_only_loss auto_insert_empty_system_msg bnb_4bit_quant_storage
    chat_template_path completion_only_loss dataset_kwargs dataset_mixer
    dataset_mixture dataset_num_proc dataset_splits desc eos_token eval_packing
    lora_alpha lora_task_type model_code_revision model_init_kwargs packing
    packing_strategy pad_to_multiple_of pad_token shuffle_dataset trl_project
    truncation_mode use_rslora
    """
)
