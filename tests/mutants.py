"""Small changes of the code, each of which a test must notice: `make mutants`.

They are made one at a time in a copy of the tree. A mutant that no test notices survives, and is a
test that is missing. `tests/test_mutants.py` checks that the table keeps up with the code.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("dalle_cli", "recipes", "pretrained", "tests", "pyproject.toml", "README.md")
PASSED, FAILED = 0, 1  # exit codes of pytest


@dataclass(frozen=True)
class Mutant:
    """A change of a file: some text, which it holds once, and what takes its place.

    test  that notices it: the file below tests/, without .py, and the function
    """

    file: str
    before: str
    after: str
    test: str

    @property
    def path(self) -> str:
        """The file from the root: recipes, or a module of the package."""
        return self.file if self.file.startswith("recipes/") else f"dalle_cli/{self.file}"

    @property
    def node(self) -> str:
        """The test as pytest names it."""
        file, _, function = self.test.partition("::")
        return f"tests/{file}.py::{function}"


MUTANTS = [
    # models
    Mutant(
        "models/attention_masks.py",
        "(back >= 0) & (back <= grid_size)",
        "(back >= 0) & (back < grid_size)",
        "models/test_attention_masks::test_mask_matches_four_nested_loops",
    ),
    Mutant(
        "models/attention_masks.py",
        "back % grid_size == 0",
        "back % grid_size == 1",
        "models/test_attention_masks::test_mask_matches_four_nested_loops",
    ),
    Mutant(
        "models/attention_masks.py",
        "if i % 4 == 1",
        "if i % 4 == 2",
        "models/test_attention_masks::test_layers_of_the_paper",
    ),
    Mutant(
        "models/attention_masks.py",
        "for a in range(half + 1)",
        "for a in range(half)",
        "models/test_attention_masks::test_small_kernel_offsets_wrap_in_raster_order",
    ),
    Mutant(
        "models/attention.py",
        "query.shape[-1] ** -0.5",
        "query.shape[-1] ** -1",
        "models/test_attention::test_attention_matches_an_explicit_softmax",
    ),
    Mutant(
        "models/sparse_attention.py",
        "lines[i : i + n_lines] for",
        "lines[:n_lines] for",
        "models/test_sparse_attention::test_sparse_attention_equals_all_pairs_under_the_mask",
    ),
    Mutant(
        "models/sparse_attention.py",
        "for part in (*by_query, *by_key):",
        "for part in by_query:",
        "models/test_sparse_attention::test_sparse_attention_equals_all_pairs_under_the_mask",
    ),
    Mutant(
        "models/sparse_attention.py",
        "torch.bmm(query, key.mT, out=pairs)",
        "pairs.copy_(query.bfloat16() @ key.bfloat16().mT)",
        "models/test_sparse_attention::test_sparse_attention_in_bf16_is_as_near_as_the_dense_kernel",
    ),
    Mutant(
        "models/transformer.py",
        "matrix.mul_((2 * len(blocks)) ** -0.5)",
        "matrix.mul_(len(blocks) ** -0.5)",
        "models/test_transformer::test_matrices_start_as_published_and_smaller_where_branches_end",
    ),
    Mutant(
        "models/transformer.py",
        "for parameter in self.blocks.parameters() if parameter.ndim == 2",
        "for parameter in self.parameters() if parameter.ndim == 2",
        "models/test_transformer::test_matrices_are_those_of_the_branches_and_no_embedding_or_head",
    ),
    Mutant(
        "models/transformer.py",
        "self.text_padding[1:])",
        "self.text_padding[:-1])",
        "models/test_transformer::test_padding_slots_hold_their_own_vectors",
    ),
    Mutant(
        "models/transformer.py",
        "GELU_SLOPE = 1.702",
        "GELU_SLOPE = 1.7",
        "models/test_transformer::test_activation_is_the_published_one_and_so_is_its_gradient",
    ),
    Mutant(
        "models/dvae.py",
        ".div_(temperature)",
        ".mul_(temperature)",
        "models/test_dvae::test_relaxation_is_the_softmax_of_noisy_logits_over_the_codebook",
    ),
    Mutant(
        "models/dvae.py",
        "1 / (n_groups * blocks_per_group) ** 2",
        "1 / (n_groups * blocks_per_group)",
        "models/test_dvae::test_residual_paths_are_added_with_the_inverse_square_of_their_number",
    ),
    Mutant(
        "models/clip.py",
        "(2 * len(self.resblocks)) ** -0.5",
        "len(self.resblocks) ** -0.5",
        "models/test_clip::test_blocks_start_as_published",
    ),
    Mutant(
        "models/flex_attention.py",
        "recompile_limit=MOST_GRAPHS",
        "recompile_limit=8",
        "models/test_sparse_attention::test_flex_attention_is_compiled_for_every_shape_of_a_run",
    ),
    Mutant(
        "models/attention_masks.py",
        "causal & (is_visible[:, None] | itself)",
        "causal & is_visible[:, None]",
        "models/test_attention_masks::"
        "test_padding_is_seen_by_itself_alone_and_the_rest_by_what_follows",
    ),
    # diffusion
    Mutant(
        "models/diffusion/noise_schedules.py",
        "(ends + COSINE_OFFSET) / (1 + COSINE_OFFSET)",
        "ends",
        "models/diffusion/test_noise_schedules::test_tables_hold_the_specified_values",
    ),
    Mutant(
        "models/diffusion/noise_schedules.py",
        "(size - 1) / (count - 1) if",
        "size // count if",
        "models/diffusion/test_noise_schedules::test_strided_grids_are_the_specified_ones",
    ),
    Mutant(
        "models/diffusion/noise_schedules.py",
        "NoiseSchedule(1 - levels / before, self.timesteps[kept])",
        "NoiseSchedule(self.betas[kept], self.timesteps[kept])",
        "models/diffusion/test_noise_schedules::test_respaced_tables_hold_the_specified_values",
    ),
    Mutant(
        "models/diffusion/hybrid_loss.py",
        "prediction.detach()",
        "prediction",
        "models/diffusion/test_hybrid_loss::test_bound_trains_the_variances_alone",
    ),
    Mutant(
        "models/diffusion/hybrid_loss.py",
        "len(schedule) / 1000 * bound",
        "bound / 1000",
        "models/diffusion/test_hybrid_loss::"
        "test_bound_of_a_step_weighs_a_thousandth_of_the_number_of_steps",
    ),
    Mutant(
        "models/diffusion/samplers.py",
        "noise = noise_from_clean(schedule, clean, noisy=noisy, index=index)",
        "noise = predicted",
        "models/diffusion/test_samplers::test_noise_belongs_to_the_clean_sample_after_clipping",
    ),
    Mutant(
        "models/diffusion/samplers.py",
        "step = int(schedule.timesteps[index])",
        "step = index",
        "models/diffusion/test_samplers::test_networks_are_told_training_steps_on_any_grid",
    ),
    Mutant(
        "models/diffusion/guided_net.py",
        "conditional[:, n_guided:]",
        "null[:, n_guided:]",
        "models/diffusion/test_guided_net::"
        "test_noise_is_guided_and_variances_are_the_conditional_ones",
    ),
    Mutant(
        "models/diffusion/time_embedding.py",
        "torch.cat([angles.cos(), angles.sin()], dim=1)",
        "torch.cat([angles.sin(), angles.cos()], dim=1)",
        "models/diffusion/test_time_embedding::test_sinusoids_match_the_specified_values",
    ),
    Mutant(
        "models/diffusion/noise_schedules.py",
        "torch.cat([variances[1:2], variances[1:]]).log()",
        "variances.clamp(min=1e-20).log()",
        "models/diffusion/test_noise_schedules::test_tables_hold_the_specified_values",
    ),
    Mutant(
        "models/diffusion/noise_schedules.py",
        "length + (section < n_longer)",
        "length",
        "models/diffusion/test_noise_schedules::"
        "test_first_sections_are_longer_where_they_do_not_divide_the_steps",
    ),
    Mutant(
        "models/diffusion/noising.py",
        "(scale * noisy - clean) / ratio",
        "(noisy - clean) / ratio",
        "models/diffusion/test_noising::test_noise_and_clean_samples_follow_from_each_other",
    ),
    Mutant(
        "models/diffusion/samplers.py",
        "eta**2 * schedule",
        "eta * schedule",
        "models/diffusion/test_samplers::test_ddim_step_matches_the_specified_values",
    ),
    Mutant(
        "models/diffusion/samplers.py",
        "noise = noise_at(index) if index else None",
        "noise = noise_at(index)",
        "models/diffusion/test_samplers::"
        "test_sampling_loop_adds_the_noise_of_each_index_but_the_first",
    ),
    Mutant(
        "models/diffusion/samplers.py",
        "clean = (x - (1 - before).sqrt() * noise) / before.sqrt()",
        "clean = (x - (1 - level).sqrt() * noise) / level.sqrt()",
        "models/diffusion/test_samplers::"
        "test_inversion_finds_the_specified_noise_which_samples_the_picture_again",
    ),
    Mutant(
        "models/diffusion/hybrid_loss.py",
        "1 - below, above - below",
        "above - below, above - below",
        "models/diffusion/test_hybrid_loss::test_probabilities_of_all_levels_sum_to_one",
    ),
    Mutant(
        "models/diffusion/hybrid_loss.py",
        "share = (output + 1) / 2",
        "share = output.sigmoid()",
        "models/diffusion/test_hybrid_loss::test_log_variance_matches_the_specified_values",
    ),
    Mutant(
        "models/diffusion/analytic_variance.py",
        ".clamp(0, data_variance)",
        "",
        "models/diffusion/test_analytic_variance::"
        "test_variance_lies_between_the_posteriors_and_the_largest",
    ),
    # DALL-E 2
    Mutant(
        "models/unclip/unet.py",
        "self.norm_2(h) * (1 + scale) + shift",
        "self.norm_2(h) * scale + shift",
        "models/unclip/test_unet::test_residual_block_matches_its_definition",
    ),
    Mutant(
        "models/unclip/unet.py",
        "rows.unflatten(-1, (self.n_heads, n_parts, -1))  # [B, N, H, n_parts, K]",
        "rows.unflatten(-1, (n_parts, self.n_heads, -1)).transpose(2, 3)",
        "models/unclip/test_unet::"
        "test_attention_matches_an_explicit_softmax_over_context_and_pixels",
    ),
    Mutant(
        "models/unclip/decoder.py",
        "slots = self.embedding_slots(scaled)",
        "slots = self.embedding_slots(embeddings)",
        "models/unclip/test_decoder::test_nothing_is_left_of_a_dropped_embedding",
    ),
    Mutant(
        "models/unclip/decoder.py",
        "torch.cat([without_caption, ~none])",
        "torch.cat([without_caption, none])",
        "models/unclip/test_decoder::test_guided_decoder_is_led_away_from_neither_condition",
    ),
    Mutant(
        "models/unclip/diffusion_prior.py",
        "text = torch.where(is_dropped[:, None], self.null_text, text)",
        "text = torch.where(is_dropped[:, None], text, text)",
        "models/unclip/test_diffusion_prior::test_nothing_is_left_of_a_dropped_caption",
    ),
    Mutant(
        "models/unclip/diffusion_prior.py",
        "(F.normalize(candidates, dim=-1) @ texts)",
        "(candidates @ texts)",
        "models/unclip/test_diffusion_prior::"
        "test_candidate_with_the_largest_cosine_is_kept_whatever_its_length",
    ),
    Mutant(
        "models/unclip/autoregressive_prior.py",
        "prior.position[n_prefix + number]",
        "prior.position[n_prefix + number - 1]",
        "models/unclip/test_autoregressive_prior::"
        "test_cached_sampling_sees_the_logits_of_whole_predictions",
    ),
    Mutant(
        "models/unclip/embedding_codec.py",
        "(1 - top_share + top_share * uniforms)",
        "(top_share * uniforms)",
        "models/unclip/test_embedding_codec::test_sampled_cosines_are_those_of_the_better_half",
    ),
    Mutant(
        "models/unclip/interpolation.py",
        "(share * angle).sin() / safe",
        "share * angle / safe",
        "models/unclip/test_interpolation::test_arc_passes_the_specified_points",
    ),
    Mutant(
        "models/unclip/unet.py",
        "h * is_kept / (1 - self.dropout)",
        "h * is_kept",
        "models/unclip/test_unet::test_dropped_activations_are_zero_and_others_enlarged",
    ),
    Mutant(
        "models/unclip/unet.py",
        "torch.promote_types(x.dtype, torch.float32)",
        "x.dtype",
        "models/unclip/test_unet::test_normalisation_is_fp32_in_half_precision",
    ),
    Mutant(
        "models/unclip/unet.py",
        "last += [attention.output for attention in self._attentions()]",
        "last += []",
        "models/unclip/test_unet::test_output_starts_at_zero_and_residual_branches_at_identity",
    ),
    Mutant(
        "models/unclip/decoder.py",
        "by_caption < caption_dropout",
        "by_embedding < caption_dropout",
        "models/unclip/test_decoder::test_conditions_are_left_out_independently",
    ),
    Mutant(
        "models/unclip/caption_encoders.py",
        "torch.where(is_given[..., None], slots, self.padding)",
        "slots",
        "models/unclip/test_caption_encoders::"
        "test_states_are_projected_and_normalised_and_padding_is_learned",
    ),
    Mutant(
        "models/unclip/clip_captions.py",
        "slots <= ends",
        "slots < ends",
        "models/unclip/test_clip_captions::test_slots_are_given_up_to_the_end_of_text",
    ),
    Mutant(
        "models/unclip/embedding_scale.py",
        "rms * embeddings.shape[-1] ** 0.5",
        "rms",
        "models/unclip/test_embedding_scale::"
        "test_published_scale_multiplies_unit_vectors_by_the_specified_factor",
    ),
    Mutant(
        "models/unclip/diffusion_prior.py",
        " / prior.embedding_rms**2",
        "",
        "models/unclip/test_diffusion_prior::"
        "test_loss_is_relative_to_the_mean_square_of_the_target",
    ),
    Mutant(
        "models/unclip/embedding_codec.py",
        "components * largest.sign()",
        "components * -largest.sign()",
        "models/unclip/test_embedding_codec::"
        "test_components_are_those_of_the_covariance_in_falling_order",
    ),
    Mutant(
        "models/unclip/interpolation.py",
        "< counts[:, None]",
        "<= counts[:, None]",
        "models/unclip/test_interpolation::test_each_sample_keeps_its_number_of_components",
    ),
    # generation with DALL-E 2
    Mutant(
        "generation/unclip/noise.py",
        "key.subject, stage, index",
        "key.subject, index",
        "generation/unclip/test_unclip_noise::"
        "test_every_part_of_a_key_and_of_a_step_makes_other_numbers",
    ),
    Mutant(
        "generation/unclip/decoder_sampler.py",
        "None, guidance=1.0, limit=None",
        "None, guidance=self.guidance, limit=None",
        "generation/unclip/test_decoder_sampler::test_inversion_is_neither_guided_nor_clipped",
    ),
    Mutant(
        "generation/unclip/opening.py",
        "clip_identity(found.clip) != scorer.identity",
        "not scorer.identity",
        "commands/unclip/test_generate_unclip::test_a_prior_of_another_clip_is_refused",
    ),
    Mutant(
        "generation/unclip/decoder_sampler.py",
        "eta=self.eta",
        "eta=0.0",
        "generation/unclip/test_decoder_sampler::test_with_ddim_the_first_noise_alone_decides",
    ),
    Mutant(
        "generation/unclip/prior_samplers.py",
        "LARGEST_DEVIATIONS * table.embedding_rms",
        "0.1 * table.embedding_rms",
        "generation/unclip/test_prior_samplers::"
        "test_kept_candidate_is_the_closer_of_two_samples_by_a_plain_loop",
    ),
    Mutant(
        "commands/unclip/blend.py",
        "painter.with_eta(0.0)",
        "painter.with_eta(1.0)",
        "commands/unclip/test_from_pictures::test_blend_goes_from_one_picture_to_another_and_back",
    ),
    # losses and metrics
    Mutant(
        "losses.py",
        "math.log(2) + log_scale + log_jacobian",
        "math.log(2) + log_scale - log_jacobian",
        "test_losses::test_logit_laplace_matches_the_specified_values",
    ),
    Mutant(
        "losses.py",
        "_NegativeEntropy.apply(cells) + math.log",
        "_NegativeEntropy.apply(cells) - math.log",
        "test_losses::test_kl_to_uniform_matches_a_sum_over_the_codebook",
    ),
    Mutant(
        "losses.py",
        "log_probs - total[..., None]",
        "log_probs + total[..., None]",
        "test_losses::test_kl_to_uniform_has_the_gradient_of_its_definition",
    ),
    Mutant(
        "losses.py",
        "text_weight * text + (1 - text_weight) * image",
        "(1 - text_weight) * text + text_weight * image",
        "test_losses::test_text_weight_is_the_texts_share",
    ),
    Mutant(
        "losses.py",
        "F.cross_entropy(logits.T, pairs)",
        "F.cross_entropy(logits, pairs)",
        "test_losses::test_contrastive_loss_matches_a_double_loop",
    ),
    Mutant(
        "metrics.py",
        "-10 * math.log10",
        "-20 * math.log10",
        "test_metrics::test_psnr_counts_decibels_below_a_peak_of_one",
    ),
    Mutant(
        "metrics.py",
        "return (low == high).all(dim=1)",
        "return (low == high).any(dim=1)",
        "test_metrics::test_blank_cells_are_those_of_one_colour",
    ),
    # tasks
    Mutant(
        "training/tasks/dvae.py",
        "reconstruction + kl_weight * kl_sum / n_values",
        "reconstruction + 2 * kl_weight * kl_sum / n_values",
        "training/tasks/test_tasks::"
        "test_dvae_loss_is_the_published_bound_in_the_middle_of_its_ramps",
    ),
    Mutant(
        "training/tasks/dvae.py",
        "return (images + self._table.dequantization * noise).clamp(0, 1)",
        "return images",
        "training/tasks/test_tasks::"
        "test_dvae_loss_is_the_published_bound_in_the_middle_of_its_ramps",
    ),
    Mutant(
        "training/tasks/dvae.py",
        "log_scale = log_scale.clamp(min=self._table.min_log_scale)",
        "log_scale = log_scale + 0",
        "training/tasks/test_tasks::"
        "test_dvae_loss_is_the_published_bound_in_the_middle_of_its_ramps",
    ),
    Mutant(
        "training/tasks/dvae.py",
        "cosine(self._table.temperature, step), self._table.kl_weight.end",
        "cosine(self._table.temperature, step), cosine(self._table.kl_weight, step)",
        "training/tasks/test_tasks::"
        "test_held_out_loss_of_a_dvae_is_at_the_end_of_its_ramps_and_without_noise",
    ),
    Mutant(
        "training/tasks/model_setup.py",
        "scales = scale_gradients(branches, world.size, world.device)",
        "scales = scale_loss(transformer, world.device)",
        "training/tasks/test_model_setup::"
        "test_each_branch_of_a_transformer_in_fp16_has_a_gradient_scale",
    ),
    # training
    Mutant(
        "training/attention_backend.py",
        "(transformer.text_len, transformer.grid_size, transformer.kernel_size)",
        "(transformer.text_len, transformer.grid_size, 3)",
        "training/test_attention_backend::test_sparse_transformer_computes_what_the_dense_one_does",
    ),
    Mutant(
        "training/attention_backend.py",
        'return "flex" if has_compiler(device) else "dense"',
        'return "flex"',
        "training/test_attention_backend::test_choice_goes_by_device_and_length",
    ),
    Mutant(
        "training/loop.py",
        "with engine.averaged(), torch.no_grad():",
        "with torch.no_grad():",
        "training/test_loop::test_held_out_figures_are_those_of_the_averaged_weights",
    ),
    Mutant(
        "training/loop.py",
        "if is_last or done % runtime.validate_every == 0:",
        "if done % runtime.validate_every == 0:",
        "training/test_loop::test_everything_is_done_when_due_and_after_the_last_update",
    ),
    Mutant(
        "training/loop.py",
        "            if self._engine.step != self._saved:\n                self.save()\n",
        "",
        "training/test_loop::test_request_to_stop_saves_after_the_update_under_way",
    ),
    Mutant(
        "training/engines/replica.py",
        "self._compression.settle(is_applied=is_finite)",
        "self._compression.settle(is_applied=True)",
        "training/engines/test_replica::test_skipped_update_leaves_no_trace_in_the_errors",
    ),
    Mutant(
        "training/engines/replica.py",
        "            parameter.grad = None\n",
        "            pass\n",
        "training/engines/test_replica::"
        "test_gradients_of_a_skipped_update_do_not_leak_into_the_next",
    ),
    Mutant(
        "training/engines/powersgd.py",
        "gradients[name].sub(low_rank, alpha=1 / self.n_ranks)",
        "gradients[name].sub(low_rank)",
        "training/engines/test_powersgd::test_outputs_and_errors_add_up_to_the_gradients_so_far",
    ),
    Mutant(
        "training/engines/powersgd.py",
        "IDENTITY_SHARE = 1e-6",
        "IDENTITY_SHARE = 0.0",
        "training/engines/test_powersgd::"
        "test_columns_beyond_the_rank_are_orthonormal_and_do_not_hang_on_rounding",
    ),
    Mutant(
        "training/engines/powersgd.py",
        "self.errors = self._pending",
        "self.errors.update(self._pending)",
        "training/engines/test_powersgd::"
        "test_errors_of_what_is_no_longer_compressed_go_with_the_next_update_applied",
    ),
    Mutant(
        "training/engines/powersgd.py",
        "            p = torch.where(is_held, p, math.nan)\n",
        "",
        "training/engines/test_powersgd_in_16_bits::"
        "test_a_batch_that_16_bits_cannot_hold_on_one_rank_is_skipped_by_all_without_a_trace",
    ),
    Mutant(
        "training/engines/powersgd.py",
        "self._stored(_orthonormal(_numbers(p)))",
        "_orthonormal(_numbers(p))",
        "training/engines/test_powersgd_in_16_bits::"
        "test_one_update_matches_a_statement_with_every_rounding",
    ),
    Mutant(
        "training/engines/shard_places.py",
        "shape[1] > shape[0]",
        "shape[1] < shape[0]",
        "training/engines/test_fsdp::test_matrices_are_cut_along_the_papers_axes",
    ),
    Mutant(
        "training/optimization/adamw.py",
        "(1 - beta2**update) ** 0.5",
        "(1 - beta1**update) ** 0.5",
        "training/optimization/test_adamw::test_adamw_equals_torchs_over_twenty_updates",
    ),
    Mutant(
        "training/optimization/adamw.py",
        "if self.clip_second_moment:",
        "if False:",
        "training/optimization/test_adamw::test_clipped_second_moment_matches_one_number_at_a_time",
    ),
    Mutant(
        "training/optimization/adamw.py",
        '{"params": others, "weight_decay": 0.0,',
        '{"params": others, "weight_decay": table.weight_decay,',
        "training/optimization/test_adamw::test_decay_shrinks_the_matrices_and_nothing_else",
    ),
    Mutant(
        "training/optimization/adamw.py",
        '"in_16_bits": False',
        '"in_16_bits": True',
        "training/optimization/test_adamw::test_matrices_alone_have_moments_in_16_bits",
    ),
    Mutant(
        "training/optimization/float_formats.py",
        " + is_odd)",
        ")",
        "training/optimization/test_float_formats::"
        "test_values_between_all_neighbours_go_to_the_nearest_number",
    ),
    Mutant(
        "training/optimization/ema.py",
        "(10 + self.n_updates)",
        "(11 + self.n_updates)",
        "training/optimization/test_ema::test_average_matches_a_plain_loop",
    ),
    Mutant(
        "training/optimization/gradient_scaling.py",
        "WINDOW = 125",
        "WINDOW = 124",
        "training/optimization/test_gradient_scaling::test_scales_move_as_computed_by_hand",
    ),
    Mutant(
        "training/optimization/gradient_scaling.py",
        "_filtered(gradient / scale), None",
        "gradient / scale, None",
        "training/optimization/test_gradient_scaling::test_an_overflow_stays_in_its_branch",
    ),
    Mutant(
        "training/optimization/gradient_scaling.py",
        "(is_clean | (positions > 0)).all() & ~is_clean.all()",
        "~is_clean.all()",
        "training/optimization/test_gradient_scaling::"
        "test_a_branch_recovers_until_its_scale_is_the_lowest",
    ),
    Mutant(
        "training/optimization/loss_scaling.py",
        "~is_clean & (self.scale > LOWEST)",
        "~is_clean",
        "training/optimization/test_loss_scaling::test_overflow_may_end_until_the_scale_is_one",
    ),
    Mutant(
        "training/optimization/divergence.py",
        "if not is_finite or not can_recover():",
        "if True:",
        "training/optimization/test_divergence::"
        "test_overflows_end_a_run_where_lower_scales_do_not_help",
    ),
    Mutant(
        "training/optimization/learning_rate.py",
        "(step + 1) / optimizer.warmup_steps",
        "step / optimizer.warmup_steps",
        "training/optimization/test_scheduled_values::"
        "test_warm_up_is_a_ramp_that_is_whole_at_its_last_update",
    ),
    Mutant(
        "training/optimization/learning_rate.py",
        "0.5**self._halvings",
        "0.25**self._halvings",
        "training/optimization/test_learning_rate::test_halvings_match_a_slow_version",
    ),
    Mutant(
        "training/checkpoint.py",
        "saved[: -self.keep]",
        "saved[: -self.keep - 1]",
        "training/test_checkpoint::test_the_last_few_and_the_best_are_kept",
    ),
    Mutant(
        "training/checkpoint.py",
        "            if step != best:\n",
        "            if step:\n",
        "training/test_checkpoint::test_the_last_few_and_the_best_are_kept",
    ),
    Mutant(
        "training/checkpoint.py",
        "explain_disk_failure(path, needed, hint=hint), remove_on_failure(partial)",
        "explain_disk_failure(path, needed, hint=hint)",
        "training/test_checkpoint::test_full_disk_leaves_what_was_there_and_says_what_is_needed",
    ),
    Mutant(
        "training/run.py",
        "check_place_for_checkpoints(folder, 0 if",
        "(lambda folder, step: None)(folder, 0 if",
        "training/test_run::test_place_of_a_checkpoint_that_is_taken_is_told_before_the_first_step",
    ),
    Mutant(
        "training/metric_log.py",
        "self._rates((n_pending - self._n_restored)",
        "self._rates(n_pending",
        "training/test_metric_log::test_updates_before_a_resumption_do_not_count_for_the_throughput",
    ),
    Mutant(
        "training/trackers/curves.py",
        "return step > self.step or (",
        "return step >= self.step or (",
        "training/trackers/test_curves::test_run_that_was_killed_after_its_checkpoint_sends_nothing_twice",
    ),
    Mutant(
        "training/trackers/curves.py",
        "step == self.step and name not in self.names",
        "False",
        "training/trackers/test_curves::test_figures_of_the_step_at_which_it_was_killed_are_completed",
    ),
    # devices, signals and exit codes
    Mutant(
        "runtime/devices.py",
        "torch.backends.cudnn.allow_tf32 = False",
        "torch.backends.cudnn.allow_tf32 = True",
        "runtime/test_precision::test_convolutions_of_a_gpu_compute_in_fp32",
    ),
    Mutant(
        "runtime/devices.py",
        "tensor = tensor.pin_memory()",
        "pass",
        "test_fake_cuda::test_copies_from_pinned_memory_and_to_the_host_make_nobody_wait",
    ),
    Mutant(
        "models/diffusion/noise_schedules.py",
        "entries.to(like, non_blocking=True)",
        "entries.to(like)",
        "training/test_steps_on_fake_cuda::test_update_stays_on_the_gpu_and_waits_for_it_once",
    ),
    Mutant(
        "losses.py",
        "is_given.to(bias.dtype).T @ by_logits",
        "torch.ones_like(at_target).T @ by_logits",
        "test_losses::test_linear_cross_entropy_equals_that_of_all_logits",
    ),
    Mutant(
        "runtime/compilation.py",
        "static.copy_(given)",
        "pass",
        "runtime/test_compilation::test_replay_of_a_captured_step_reads_the_arguments_of_its_call",
    ),
    Mutant(
        "runtime/compilation.py",
        "self._captured_state = None  # until",
        "self._captured_state = state  # until",
        "runtime/test_compilation::test_capture_that_failed_is_made_again",
    ),
    Mutant(
        "runtime/compilation.py",
        'capture_error_mode="thread_local"',
        'capture_error_mode="global"',
        "runtime/test_compilation::test_capture_bears_what_other_threads_do",
    ),
    Mutant(
        "runtime/compiled_packages.py",
        "{hashlib.sha256(content.numpy().data).hexdigest()}",
        "",
        "runtime/test_compiled_packages::test_whatever_a_package_depends_on_changes_its_name",
    ),
    Mutant(
        "runtime/compiled_packages.py",
        "        torch.__version__,\n",
        "",
        "runtime/test_compiled_packages::test_whatever_a_package_depends_on_changes_its_name",
    ),
    Mutant(
        "runtime/compiled_packages.py",
        "yield from sorted(map(repr, value))",
        "yield from map(repr, value)",
        "runtime/test_compiled_packages::test_another_process_finds_what_one_has_stored",
    ),
    Mutant(
        "runtime/compiled_packages.py",
        "return status.st_uid == os.getuid() and not status.st_mode & WRITABLE_BY_OTHERS",
        "return status.st_uid == os.getuid()",
        "runtime/test_compiled_packages::test_folder_that_others_may_write_to_is_not_trusted",
    ),
    Mutant(
        "runtime/compiled_packages.py",
        "        lock.acquire()\n",
        "        pass\n",
        "runtime/test_compiled_packages::test_processes_that_start_together_compile_a_step_once",
    ),
    Mutant(
        "runtime/compiled_packages.py",
        "packages[:-MOST_KEPT]",
        "packages[MOST_KEPT:]",
        "runtime/test_compiled_packages::test_packages_unused_for_longest_are_removed_with_their_locks",
    ),
    Mutant(
        "runtime/devices.py",
        '    "CUBLAS_STATUS_ALLOC_FAILED",\n',
        "",
        "runtime/test_precision::test_memory_that_is_short_is_told_whoever_wanted_it",
    ),
    Mutant(
        "runtime/processes/ranks.py",
        "or is_one_machine or",
        "or",
        "runtime/processes/test_ranks::test_processes_of_several_machines_meet_at_the_first_of_the_step",
    ),
    Mutant(
        "runtime/processes/process_group.py",
        "device_id=device if is_gpu else None",
        "device_id=None",
        "runtime/processes/test_process_group::test_processes_on_gpus_are_joined_with_the_gpu_of_each",
    ),
    Mutant(
        "runtime/processes/process_group.py",
        "if not is_of_group or is_out_of_memory(error):",
        "if not is_of_group:",
        "runtime/processes/test_process_group::test_other_errors_are_not_taken_for_a_lost_process",
    ),
    Mutant(
        "runtime/signals.py",
        '"SIGUSR1", "SIGUSR2")',
        '"SIGUSR1")',
        "cli/test_stopping::test_training_stopped_anywhere_goes_on_as_if_it_had_not_been",
    ),
    Mutant(
        "runtime/signals.py",
        "        for number in forwarded:\n            child.send_signal(number)\n",
        "",
        "runtime/test_signals::test_request_that_comes_before_the_child_reaches_it",
    ),
    Mutant(
        "cli/main.py",
        "sys.exit(128 + request.number)",
        "sys.exit(1)",
        "cli/test_stopping::test_every_request_has_its_name_and_its_code",
    ),
    Mutant(
        "errors.py",
        'CONTROL.sub("\\ufffd", text)',
        "text",
        "test_errors::test_printable_text_holds_nothing_that_steers_a_terminal",
    ),
    Mutant(
        "runtime/processes/process_group.py",
        "exit_code=LOST_ANOTHER,",
        "exit_code=1,",
        "runtime/processes/test_ranks::test_process_that_lost_another_is_told_from_one_that_failed",
    ),
    Mutant(
        "errors.py",
        r"\u202a-\u202e",
        "",
        "test_errors::test_every_character_that_turns_the_direction_is_replaced",
    ),
    Mutant(
        "training/optimization/divergence.py",
        "            self._recent.append(loss)\n            self._n_skipped = 0\n",
        "            self._recent.append(loss)\n",
        "training/optimization/test_divergence::test_only_updates_skipped_in_a_row_end_a_run",
    ),
    # data
    Mutant(
        "data/loader.py",
        ".float() / 255",
        ".float() / 256",
        "data/test_loader::test_micro_batches_hold_pixels_between_0_and_1",
    ),
    Mutant(
        "data/loader.py",
        "sampler=range(step, self._n_steps)",
        "sampler=range(self._n_steps)",
        "data/test_loader::test_starting_at_a_step_equals_the_tail_of_the_whole",
    ),
    Mutant(
        "data/shuffling.py",
        'derive_seed(seed, epoch, "whole")',
        'derive_seed(seed, "whole")',
        "data/test_shuffling::test_epochs_and_seeds_differ",
    ),
    Mutant(
        "data/sources/tar/shard_index.py",
        "spans = dict(reversed(members))",
        "spans = dict(members)",
        "data/sources/tar/test_shards::test_first_of_equal_names_is_used_whole",
    ),
    Mutant(
        "data/sources/split.py",
        "max(math.ceil(share * 2**64), smallest + 1)",
        "math.ceil(share * 2**64)",
        "data/sources/test_split::test_two_samples_are_split_and_one_is_refused",
    ),
    Mutant(
        "data/images.py",
        "if width * height > MAX_PIXELS:",
        "if width > MAX_PIXELS:",
        "data/test_images::test_too_many_pixels_are_refused_from_the_header",
    ),
    Mutant(
        "data/images.py",
        "(255 / 65535)",
        "(1 / 256)",
        "data/test_images::test_16_bit_grey_is_scaled_over_the_whole_range",
    ),
    Mutant(
        "data/clip_tokenizer.py",
        "N_MERGES = 48_894",
        "N_MERGES = 48_893",
        "data/test_clip_tokenizer::test_released_vocabulary_has_the_published_sizes",
    ),
    Mutant(
        "data/sources/exclusion.py",
        "if not self.n_excluded:",
        "if True:",
        "data/sources/test_exclusion::test_fingerprint_sees_which_samples_are_left_out",
    ),
    # storage
    Mutant(
        "storage/run_dir.py",
        'self.root / "tokenizer" / "merges.json"',
        'self.root / "tokenizer" / "bpe.json"',
        "storage/test_run_dir::test_files_of_a_run_have_the_names_that_older_folders_have",
    ),
    Mutant(
        "storage/job_folder.py",
        "job.keys() | known.keys() if is_complete else job.keys()",
        "job.keys()",
        "storage/test_job_folder::test_what_a_job_no_longer_has_makes_it_another",
    ),
    Mutant(
        "storage/atomic.py",
        "    staging = target / UNFINISHED if is_there else "
        'target.with_name(f".{target.name}{UNFINISHED}")\n'
        "    shutil.rmtree(staging, ignore_errors=True)\n",
        "    staging = target / UNFINISHED if is_there else "
        'target.with_name(f".{target.name}{UNFINISHED}")\n',
        "commands/data/test_data_shapes::test_what_a_killed_command_left_is_replaced",
    ),
    Mutant(
        "storage/atomic.py",
        "        temporary.unlink(missing_ok=True)\n",
        "        pass\n",
        "generation/test_output_folder::test_candidate_is_held_whole_or_not_at_all",
    ),
    Mutant(
        "commands/doctor.py",
        "shutil.disk_usage('.').free",
        "shutil.disk_usage('.').total",
        "cli/test_end_to_end::test_doctor_tells_what_is_free_of_the_disk",
    ),
    Mutant(
        "commands/export.py",
        "[dvae / WEIGHTS], target.dvae, half=options.half)",
        "[dvae / WEIGHTS], target.dvae, half=False)",
        "commands/test_export::test_everything_inside_an_export_has_its_precision",
    ),
    Mutant(
        "commands/reports/damage/run_check.py",
        'replace(check, part=f"{part.name}/{check.part}")',
        "check",
        "commands/reports/damage/test_run_check::"
        "test_damage_inside_an_export_is_told_of_the_part_that_has_it",
    ),
    Mutant(
        "storage/atomic.py",
        "    sync_to_disk(path)\n    return file_fingerprint(path)",
        "    return file_fingerprint(path)",
        "storage/test_atomic::test_sealed_file_reaches_the_disk",
    ),
    Mutant(
        "data/rendered/shapes.py",
        "key = min(_spelling(scene.things), _spelling(mirrored))",
        "key = _spelling(scene.things)",
        "data/rendered/test_shapes::test_flipped_picture_is_on_the_side_of_the_other",
    ),
    Mutant(
        "scoring/clip_scorer.py",
        "{self.checksum} {self.precision} {CLIP_SQUARE_VERSION}",
        "{self.checksum} {CLIP_SQUARE_VERSION}",
        "scoring/test_clip_scorer::test_embeddings_of_another_precision_are_others",
    ),
    Mutant(
        "scoring/picture_ranking.py",
        "    if n_bad:\n",
        "    if n_bad > 1:\n",
        "scoring/test_picture_ranking::test_every_unreadable_picture_fails_the_ranking",
    ),
    Mutant(
        "console/progress.py",
        "pace = (time.perf_counter() - since) / (self._done - first)",
        "pace = (time.perf_counter() - since) / self._done",
        "console/test_progress::test_time_left_of_resumed_work_is_by_the_pace_of_this_start",
    ),
    # training of DALL-E 2
    Mutant(
        "training/tasks/unclip/prior.py",
        "chances < self._table.caption_dropout",
        "chances > self._table.caption_dropout",
        "training/tasks/unclip/test_unclip_tasks::test_prior_that_drops_every_caption_does_not_read_them",
    ),
    Mutant(
        "training/tasks/noise.py",
        "(numbers.double() * n_steps)",
        "(numbers.double() * (n_steps - 1))",
        "training/tasks/test_noise::test_timesteps_are_uniform_over_the_schedule_and_each_samples_own",
    ),
    Mutant(
        "training/tasks/unclip/decoder.py",
        "clean = 2 * batch.images - 1",
        "clean = batch.images",
        "training/tasks/unclip/test_unclip_tasks::test_decoder_loss_is_the_squared_error_of_what_it_predicts",
    ),
    Mutant(
        "training/tasks/unclip/frozen_clip.py",
        "if copy.identity != scorer.identity:",
        "if copy.identity == scorer.identity:",
        "commands/training/test_train_prior::test_another_clip_is_refused_untouched",
    ),
    Mutant(
        "loading/prior_variances.py",
        "return found if found.weights == weights_checksum(run) else None",
        "return found",
        "commands/training/test_train_prior::test_variances_belong_to_the_weights",
    ),
    Mutant(
        "data/unclip/preprocessing.py",
        "larger = max(own_size, self.clip_size)",
        "larger = min(own_size, self.clip_size)",
        "data/unclip/test_unclip_preprocessing::test_decoder_and_clip_see_the_same_square",
    ),
    Mutant(
        "scoring/caption_slots.py",
        "CaptionEmbedding(ids[:length], embedding, states[:length])",
        "CaptionEmbedding(ids, embedding, states)",
        "commands/data/test_encode_embeddings::test_embeddings_are_clips_of_what_training_would_cut",
    ),
    Mutant(
        "training/tasks/unclip/prior.py",
        "losses.sum() / batch.global_size",
        "losses.mean()",
        "training/tasks/unclip/test_unclip_tasks::test_accumulated_micro_batches_equal_one_batch",
    ),
    Mutant(
        "training/tasks/unclip/decoder.py",
        "error, bound = errors.sum() / batch.global_size",
        "error, bound = errors.mean()",
        "training/tasks/unclip/test_unclip_tasks::test_accumulated_micro_batches_equal_one_batch",
    ),
    Mutant(
        "training/tasks/unclip/embedding_figures.py",
        "candidates = F.normalize(candidates, dim=2)",
        "candidates = 1 * candidates",
        "training/tasks/unclip/test_unclip_tasks::"
        "test_figures_of_embeddings_follow_their_definitions",
    ),
    Mutant(
        "config/unclip.py",
        "(self.d_text is None) == (self.text_vocab_size is None)",
        "self.d_text is None and self.text_vocab_size is None",
        "config/test_unclip::test_prior_reads_captions_in_one_way",
    ),
    Mutant(
        "config/unclip.py",
        "attended.append(unet.channels * unet.multiples[-1])",
        "attended.append(unet.d_head)",
        "config/test_unclip::test_heads_divide_widths_with_attention_and_the_middle",
    ),
    Mutant(
        "config/unclip_recipes.py",
        "if runtime.shard_group:",
        "if runtime.zero_stage and runtime.shard_group:",
        "config/test_unclip_recipes::test_what_zero_cannot_do_is_refused_with_both_values",
    ),
    # generation
    Mutant(
        "loading/dalle.py",
        "for path in (*weights, paths.dvae / WEIGHTS, paths.tokenizer):",
        "for path in (*weights, paths.tokenizer):",
        "test_loading::test_checksum_tells_every_part_that_pictures_depend_on",
    ),
    Mutant(
        "runtime/threads.py",
        "now.all - before.all - now.own + before.own",
        "now.all - before.all",
        "runtime/test_threads::test_threads_are_as_many_as_others_leave_cores_for",
    ),
    Mutant(
        "runtime/threads.py",
        "is_fixed = FIXED in os.environ or",
        "is_fixed =",
        "runtime/test_threads::test_a_fixed_number_of_threads_stays_on_busy_cores",
    ),
    Mutant(
        "generation/sampling.py",
        'f"{seed}\\0{number}\\0{caption}"',
        'f"{seed}\\0{caption}"',
        "generation/test_sampling::test_uniforms_depend_on_seed_caption_and_number",
    ),
    Mutant(
        "generation/sampling.py",
        "return bits >= smallest",
        "return bits > smallest",
        "generation/test_sampling::test_top_p_matches_its_definition",
    ),
    Mutant(
        "generation/sampling.py",
        "for shift in (2 * DIGIT, DIGIT, 0):",
        "for shift in (2 * DIGIT, DIGIT):",
        "generation/test_sampling::test_top_p_keeps_exactly_the_tokens_of_its_definition",
    ),
    Mutant(
        "generation/sampling.py",
        "groups.amax(dim=1)",
        "groups[:, 0]",
        "generation/test_sampling::test_top_k_keeps_the_likeliest_of_many_tokens",
    ),
    Mutant(
        "generation/sampling.py",
        ".clamp(max=n_blocks - 1)",
        "",
        "generation/test_sampling::test_no_token_is_drawn_where_none_has_a_probability",
    ),
    Mutant(
        "generation/sampling.py",
        "torch.where(has_token, tokens, NO_TOKEN)",
        "tokens",
        "generation/test_sampling::test_predictions_that_are_no_numbers_are_told",
    ),
    Mutant(
        "generation/sampling.py",
        "one = highest * 0 + 1",
        "one = torch.ones_like(highest)",
        "generation/test_sampling::test_predictions_that_are_no_numbers_are_told",
    ),
    Mutant(
        "generation/guidance.py",
        "empty + self._guidance * (caption - empty)",
        "caption + self._guidance * (caption - empty)",
        "generation/test_guidance::test_logits_are_led_away_from_those_of_no_caption",
    ),
    Mutant(
        "generation/ranking.py",
        "zip(text_tokens.split(1), image_tokens.split(1), strict=True)",
        "[(text_tokens, image_tokens)]",
        "generation/test_ranking::test_likelihoods_take_the_memory_of_one_picture",
    ),
    Mutant(
        "generation/ranking.py",
        'reverse=ranking.by != "perplexity"',
        "reverse=True",
        "generation/test_ranking::test_higher_cosines_and_gains_and_lower_perplexities_come_first",
    ),
    Mutant(
        "generation/output_folder.py",
        'manifest.count(b"\\n") // group * group',
        'manifest.count(b"\\n")',
        "generation/test_output_folder::test_manifest_is_cut_back_to_whole_groups",
    ),
    # evaluation
    Mutant(
        "evaluation/figures/distances.py",
        "products / (self.n - 1)",
        "products / self.n",
        "evaluation/figures/test_distances::test_moments_in_batches_are_those_of_all",
    ),
    Mutant(
        "evaluation/figures/distances.py",
        "np.trace(second) - 2 * overlap",
        "np.trace(second) - overlap",
        "evaluation/figures/test_distances::test_frechet_distance_is_that_of_its_definition",
    ),
    Mutant(
        "evaluation/figures/distances.py",
        "density=n_around / (k_real * len(generated))",
        "density=n_around / len(generated)",
        "evaluation/figures/test_distances::test_neighbourhoods_are_those_of_their_definitions",
    ),
    Mutant(
        "evaluation/figures/distances.py",
        "np.partition(squared_distances(features[rows], features), k, axis=1)[:, k]",
        "np.partition(squared_distances(features[rows], features), k, axis=1)[:, k - 1]",
        "evaluation/figures/test_distances::test_neighbourhoods_are_those_of_their_definitions",
    ),
    Mutant(
        "evaluation/figures/blur.py",
        "np.minimum(places, 2 * side - 1 - places)",
        "np.minimum(places, side - 1)",
        "evaluation/figures/test_blur::test_blur_matrix_is_a_sum_over_neighbours",
    ),
    Mutant(
        "evaluation/evaluated_pairs.py",
        "_, indices = validation_split(source, record.share)",
        "indices, _ = validation_split(source, record.share)",
        "evaluation/test_evaluated_pairs::test_share_that_training_held_out_is_evaluated",
    ),
    Mutant(
        "evaluation/evaluation_folder.py",
        'if kept["key"] == stated:',
        "if True:",
        "evaluation/test_evaluation_folder::"
        "test_part_is_measured_once_and_comes_back_to_the_last_digit",
    ),
    Mutant(
        "scoring/overlap/copy_search.py",
        "found <= self._threshold",
        "found < self._threshold",
        "scoring/overlap/test_copy_search::test_search_finds_what_loops_find",
    ),
    Mutant(
        "scoring/overlap/copy_search.py",
        "is_nearer = found < self._distance",
        "is_nearer = found <= self._distance",
        "scoring/overlap/test_copy_search::test_first_of_equally_near_pictures_is_the_nearest",
    ),
    Mutant(
        "scoring/overlap/perceptual_hash.py",
        "(KEPT_STEPS - start) / (end - start))",
        "(KEPT_STEPS - start) / STEPS)",
        "scoring/overlap/test_perceptual_hash::test_middle_is_found_where_each_crop_has_it",
    ),
    # serving
    Mutant(
        "serving/access.py",
        "found[1] not in self.names",
        "found[1] in self.names",
        "serving/test_access::test_other_hosts_are_refused",
    ),
    Mutant(
        "serving/access.py",
        "{origin.lower() for origin in origins} <= own",
        "own <= own",
        "serving/test_access::test_posts_of_other_sites_are_refused",
    ),
    Mutant(
        "serving/access.py",
        "first.encode(), self.token.encode()",
        "first.encode()[:1], self.token.encode()[:1]",
        "serving/test_access::test_without_the_token_nothing_is_answered",
    ),
    Mutant(
        "serving/jobs.py",
        "> UNWATCHED_SECONDS",
        "> 2 * UNWATCHED_SECONDS",
        "serving/test_jobs::test_job_that_nobody_looks_at_ends",
    ),
    Mutant(
        "serving/jobs.py",
        "n_bytes > MAX_KEPT_BYTES",
        "n_bytes > 2 * MAX_KEPT_BYTES",
        "serving/test_jobs::test_pictures_that_are_kept_have_a_bound",
    ),
    # several layers
    Mutant(
        "pages/gallery.py",
        "if records[0].get(name) is not None",
        "if records[0].get(name)",
        "pages/test_gallery::test_settings_of_zero_are_shown_and_absent_ones_are_not",
    ),
    Mutant(
        "runtime/processes/launcher.py",
        "env=threads | os.environ | ranks",
        "env=os.environ | threads | ranks",
        "runtime/processes/test_launcher::"
        "test_processes_share_the_cores_unless_the_user_has_set_their_threads",
    ),
    Mutant(
        "commands/export.py",
        "half = options.half and kind_of(table) not in TRAINED_WITH_CLIP",
        "half = options.half",
        "commands/unclip/test_generate_unclip::"
        "test_decoder_in_half_precision_keeps_the_clip_by_which_priors_fit",
    ),
    Mutant(
        "training/planning/plan.py",
        "limits.largest[machine.is_gpu] * machine.n_devices, situation",
        "limits.largest[machine.is_gpu], situation",
        "training/planning/test_plan::test_each_gpu_gets_the_batch_of_one",
    ),
    Mutant(
        "training/checkpoint.py",
        "best = best_step({step: losses[step] for step in saved if step in losses})",
        "best = best_step(losses)",
        "training/test_checkpoint::test_later_checkpoint_that_was_found_corrupt_is_not_the_best",
    ),
    Mutant(
        "interop/pickle_chains.py",
        ' or machine.get("little_endian") is not True',
        "",
        "interop/test_pickle_chains::test_file_of_a_machine_of_another_endianness_is_refused",
    ),
    Mutant(
        "data/tables.py",
        "line = n_before + reader.line_num\n",
        "line = reader.line_num\n",
        "data/sources/tabular/test_manifest::test_csv_that_cannot_be_understood_stops",
    ),
    Mutant(
        "losses.py",
        "indices[:n_rows]",
        "indices[:n_given]",
        "test_losses::test_linear_cross_entropy_has_products_of_few_sizes",
    ),
    Mutant(
        "losses.py",
        "by_logits = probs.scatter_add_(",
        "by_logits = probs.to(dtype).float().scatter_add_(",
        "test_losses::test_linear_cross_entropy_multiplies_in_bf16_for_its_gradients_alone",
    ),
    Mutant(
        "losses.py",
        "hits += (likeliest",
        "hits = (likeliest",
        "test_losses::test_linear_cross_entropy_equals_that_of_all_logits",
    ),
    Mutant(
        "training/engines/update_state.py",
        'self.ema.n_updates = int(numbers["ema_updates"])',
        "self.ema.n_updates = self.n_applied",
        "training/engines/test_update_state::"
        "test_average_that_is_updated_now_and_then_counts_its_own_updates_after_a_resumption",
    ),
    # DALL-E 2
    Mutant(
        "models/unclip/autoregressive_prior.py",
        "F.pad(is_given, (1, 1), value=True) | is_dropped[:, None]",
        "F.pad(is_given, (1, 1), value=True)",
        "models/unclip/test_autoregressive_prior::"
        "test_captions_that_are_left_out_predict_the_same_whatever_their_lengths",
    ),
    # recipes
    Mutant(
        "recipes/transformer/paper.toml",
        "betas = [0.9, 0.96]",
        "betas = [0.9, 0.95]",
        "test_recipe::test_recipes_of_the_paper_have_its_printed_values",
    ),
    Mutant(
        "recipes/transformer/paper.toml",
        "\ndropout = 0.1",
        "\ndropout = 0.0",
        "test_recipe::test_recipes_of_the_paper_have_its_printed_values",
    ),
    Mutant(
        "recipes/dvae/paper.toml",
        'precision = "fp16"',
        'precision = "auto"',
        "test_recipe::test_recipes_of_the_paper_have_its_printed_values",
    ),
    Mutant(
        "recipes/dvae/paper.toml",
        "end = 6.6",
        "end = 6.5",
        "test_recipe::test_recipes_of_the_paper_have_its_printed_values",
    ),
]


def exit_code(tree: Path, nodes: list[str]) -> int:
    """Run tests in a tree; return pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not gpu", *nodes]  # thorough ones as well
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, check=False
    ).returncode


def survives(mutant: Mutant, tree: Path) -> bool:
    """Return whether the test still passes with the change in place."""
    path = tree / mutant.path
    whole = path.read_text("utf-8")
    path.write_text(whole.replace(mutant.before, mutant.after), "utf-8")
    try:
        code = exit_code(tree, [mutant.node])
    finally:
        path.write_text(whole, "utf-8")
    if code not in (PASSED, FAILED) and code > 0:  # below, a signal ended it: that is noticed
        sys.exit(f"{mutant.node} cannot be run: pytest ended with {code}")
    return code == PASSED


def main(words: list[str]) -> None:
    """Try the mutants whose file or test has one of the words, or all; exit with 1 if any lives."""
    chosen = [
        mutant
        for mutant in MUTANTS
        if not words or any(word in f"{mutant.path} {mutant.node}" for word in words)
    ]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tree / name)
        if exit_code(tree, sorted({mutant.node for mutant in chosen})) != PASSED:
            sys.exit("these tests fail already, without any change")

        survivors = []
        for number, mutant in enumerate(chosen, start=1):
            is_alive = survives(mutant, tree)
            survivors += [mutant] if is_alive else []
            fate = "SURVIVES" if is_alive else "noticed"
            print(f"{number}/{len(chosen)} {fate}  {mutant.path}: {mutant.before.strip()}")
    print(f"{len(survivors)} of {len(chosen)} survive")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main(sys.argv[1:])
