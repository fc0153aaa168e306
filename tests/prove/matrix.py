"""The fault matrix: what can go wrong, what must then happen, and the tests that inject it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault, the expected behaviour, and the tests that inject it."""

    number: str
    fault: str
    expected: str
    tests: tuple[str, ...]
    """Node ids of pytest below `tests/`, without parameters."""


def _case(number: str, fault: str, expected: str, **files: tuple[str, ...] | str) -> Case:
    """A case whose tests are given as package_module=("name", ...): test_name in tests/package/test_module.py.

    Those of tests/test_module.py are given as module=("name", ...).
    """
    tests = []
    for place, names in files.items():
        package, _, module = place.partition("_")
        for name in (names,) if isinstance(names, str) else names:
            file = f"{package}/test_{module}.py" if module else f"test_{package}.py"
            tests.append(f"{file}::test_{name}")
    return Case(number=number, fault=fault, expected=expected, tests=tuple(tests))


FAULTS = (
    _case(
        "1",
        "killed at any write, fsync or rename",
        "the next run resumes; final bytes equal an undisturbed build",
        builder_run=(
            "killed_at_any_write_then_resumed_ends_with_the_same_bytes",
            "killed_again_and_again_ends_with_the_same_bytes",
            "killed_while_following_a_changed_corpus",
            "kills_at_random_moments_end_with_the_same_bytes",
        ),
        manifests_share="killed_at_random_moments_it_never_looks_whole_and_ends_alike",
        train_cli="kills_at_random_moments_end_with_the_same_bytes",
        train_checkpoint="killed_while_saving_the_one_before_is_there",
        train_trainer="killed_between_checkpoints_is_as_if_it_had_not_been",
    ),
    _case(
        "1a",
        "a build of sequences (`FRAMES=all`), killed before each receipt; of either kind, 20 times at random",
        "the next run resumes; 1 and 2 workers give the same bytes as an undisturbed build",
        builder_sequence=(
            "a_killed_build_resumes_with_the_same_bytes",
            "any_number_of_workers_gives_the_same_bytes",
        ),
        builder_cli="twenty_kills_at_random_moments_end_with_the_same_bytes",
    ),
    _case(
        "2",
        "disk full",
        "non-zero exit with path and free space; no incomplete file under a final name",
        builder_run="disk_full_at_any_write_says_where_and_leaves_nothing_half_published",
        builder_cli="real_disks_that_are_full_or_read_only",
        manifests_files="a_full_disk_is_told_with_the_free_space",
        train_checkpoint="a_full_disk_leaves_the_last_checkpoint_and_says_how_much_is_free",
    ),
    _case("3", "output not writable", "fails before any work", builder_run="not_writable_fails_before_any_work"),
    _case(
        "4",
        "cut MP4",
        "drop `truncated`",
        builder_media=(
            "cut_mp4_is_truncated",
            "recording_cut_between_packets_is_truncated",
            "mp4_cut_before_its_index_is_unreadable",
        ),
    ),
    _case(
        "5",
        "damaged in the middle",
        "drop `decode_error` with the decoder's message",
        builder_media=("damaged_picture_is_a_decode_error", "damaged_sound_is_a_decode_error"),
    ),
    _case(
        "6, 7",
        "no sound, or an empty stream",
        "drop `no_audio`, or the separate sound file is used",
        builder_media=(
            "recording_without_sound",
            "recording_with_an_empty_sound_stream",
            "separate_sound_file_stands_in",
        ),
        builder_clip="recording_without_sound_uses_the_file_beside_it",
    ),
    _case(
        "8",
        "silent sound",
        "kept, flagged `silent`, every number finite",
        builder_media="silence_is_kept_and_flagged",
        builder_clip="silence_is_kept_flagged_and_finite",
    ),
    _case(
        "9",
        "Git LFS pointers instead of media",
        "stops early and suggests `git lfs pull`",
        builder_media="git_lfs_pointer_says_what_to_run",
        builder_datasets="lfs_pointers_are_refused",
    ),
    _case(
        "10, 11",
        "no face, or in some frames only",
        "drop `no_face`, counted; otherwise kept, with a mask of the frames",
        builder_clip=(
            "too_few_faces_drop_the_clip",
            "frames_without_a_face_are_marked_and_borrow_their_neighbours_place",
        ),
        builder_report="drops_by_reason_emotion_and_speaker",
    ),
    _case(
        "12",
        "two faces",
        "the corpus's rule decides, flagged",
        builder_clip=("two_faces_are_flagged_and_the_larger_is_followed", "only_the_talkers_half_is_looked_at"),
    ),
    _case(
        "13",
        "variable frame rate",
        "sampled by presentation time",
        builder_media="variable_frame_rate_is_sampled_by_presentation_time",
    ),
    _case("14", "rotation in the metadata", "upright", builder_media="rotated_pictures_come_out_upright"),
    _case("15", "one frame", "drop `too_short`", builder_media="one_frame_is_too_short"),
    _case(
        "16",
        "streams that start apart",
        "aligned within half a frame and one hop",
        builder_clapper=(
            "white_frame_is_shown_within_half_a_frame_of_the_clap",
            "click_lies_within_one_hop_of_the_clap_in_the_right_windows",
        ),
        builder_media="sound_that_starts_late_and_ends_early_keeps_its_place",
    ),
    _case("17", "wrong extension", "the content decides", builder_media="content_decides_not_the_name"),
    _case(
        "18",
        "unicode, spaces, `#` in names",
        "work",
        builder_media=("names_with_special_characters", "relative_names_that_look_like_something_else"),
    ),
    _case(
        "19",
        "two files with one clip id",
        "stops and names both",
        builder_run="two_files_with_one_clip_id_stop_the_build_naming_both",
        builder_datasets="crema_d_suffixes_equal_but_for_case_are_refused",
    ),
    _case(
        "20, 21",
        "two builds in one folder; a lock left behind",
        "the second is refused and names the owner; the lock is taken over",
        builder_run=("a_second_build_is_refused_naming_the_owner", "a_lock_left_behind_is_taken_over"),
        builder_cli="a_second_build_is_refused_until_the_first_has_ended",
        manifests_files="a_killed_owners_lock_is_free",
    ),
    _case(
        "22",
        "clocks set back",
        "no decision depends on the times of files",
        builder_run="nothing_is_built_twice_whatever_the_clock_says",
    ),
    _case(
        "23",
        "worker segfaults or runs out of memory",
        "retried once, then dropped as `worker_died`; the other clips are built",
        builder_pool="clips_that_end_their_worker_are_dropped_and_the_rest_goes_on",
        builder_cli=("a_crash_and_a_hang_in_one_build", "too_little_memory_drops_clips_and_not_the_machine"),
    ),
    _case(
        "24",
        "decoder hangs",
        "the whole process tree is killed, the clip dropped as `timeout`",
        builder_pool=(
            "children_of_a_hung_worker_end_with_it",
            "clips_that_end_their_worker_are_dropped_and_the_rest_goes_on",
        ),
    ),
    _case(
        "25",
        "damaged, missing or extra shard",
        "named with what was expected and found; never skipped",
        manifests_verify=("damage_is_found_and_the_file_named", "no_change_of_any_byte_goes_unseen"),
        train_data="a_shard_that_was_changed_is_named_before_anything_is_decoded",
        train_loader="a_damaged_member_names_its_shard_and_clip",
    ),
    _case(
        "26",
        "resumed with another configuration",
        "refused; the message shows the difference",
        builder_run=(
            "another_configuration_is_refused_naming_the_difference",
            "other_versions_are_refused_naming_them",
        ),
    ),
    _case(
        "27",
        "a recording changed after the build",
        "noticed by its hash, built again",
        builder_run="only_the_shards_of_what_changed_are_built_again",
    ),
    _case(
        "28",
        "network file systems",
        "files are read back, hashed and renamed within one folder",
        manifests_files=(
            "what_reads_back_otherwise_does_not_replace_the_file",
            "data_are_on_the_disk_before_the_name_is",
        ),
        builder_run="a_file_system_without_locks_is_named",
    ),
    _case(
        "29",
        "more than 2 % dropped, or a speaker left empty",
        "non-zero exit with the reason, finished shards are kept; --allow-drops accepts it",
        builder_run=(
            "more_than_two_per_cent_is_a_failure_that_keeps_what_was_built",
            "an_empty_speaker_is_a_failure",
        ),
        builder_cli="drops_fail_unless_they_are_allowed",
    ),
    _case(
        "30",
        "fewer shards than ranks x workers",
        "every clip is read exactly once",
        train_loader=(
            "all_ranks_together_see_each_clip_once_and_take_equal_steps",
            "a_rank_without_clips_in_the_last_step_gets_an_empty_batch",
        ),
    ),
    _case(
        "31",
        "a speaker on two sides of a fold",
        "refused",
        manifests_folds="a_malformed_fold_file_is_refused_in_one_line",
        train_data="a_fold_that_leaks_a_speaker_is_refused",
        train_cli="leaking_fold_is_refused",
    ),
    _case(
        "32",
        "Ctrl-C",
        "clean exit that prints how to resume",
        builder_cli=(
            "ctrl_c_while_workers_start",
            "ctrl_c_while_the_backends_load",
            "an_ended_build_leaves_no_process_and_goes_on",
        ),
        builder_demo="ctrl_c_ends_rendering_at_once_and_leaves_nothing",
        train_cli="ctrl_c_saves_and_says_how_to_continue",
        train_signals=(
            "one_ctrl_c_ends_the_wait_for_a_shard",
            "ctrl_c_before_anything_is_begun",
            "an_interrupted_validation_is_repeated_and_nothing_is_lost",
        ),
    ),
    _case(
        "33",
        "unknown corpus, strategy, fold, scheme",
        "one line that lists the valid values",
        builder_cli=("what_is_not_valid_is_one_line_that_lists_what_is", "a_traceback_only_with_debug"),
        train_cli="what_cannot_be_is_refused_in_one_line",
    ),
)

SAFETY = (
    _case(
        "S1",
        "hostile members: npy that claims terabytes, picture and sound bombs, deep JSON",
        "one error, no large allocation",
        manifests_schema=(
            "hostile_member_is_refused_by_name",
            "claimed_sizes_allocate_nothing",
            "random_bytes_raise_nothing_else",
        ),
    ),
    _case(
        "S2",
        "hostile tars: links, devices, compressed, path escapes",
        "refused; never extracted",
        manifests_index=("hostile_tar_is_refused", "damaged_tar_headers_raise_nothing_else"),
    ),
    _case(
        "S3",
        "hostile index and folds: `..`, absolute names, `pipe:`, huge files",
        "refused; the message names the line",
        manifests_index=(
            "hostile_dataset_is_refused",
            "hostile_receipt_is_refused",
            "sums_name_files_of_the_folder_only",
            "huge_index_is_not_read",
        ),
        manifests_folds="a_hostile_scheme_file_gives_a_scheme_or_a_fold_error",
    ),
    _case(
        "S4",
        "checkpoints that run code, or claim more than they hold",
        "refused; no code runs",
        train_weights=(
            "the_bomb_below_is_live",
            "a_pickle_that_runs_code_is_refused_and_does_not",
            "tensors_that_claim_more_than_the_file_holds_are_refused",
        ),
        train_checkpoint="optimizer_state_that_would_run_code_is_refused",
    ),
    _case(
        "S5",
        "media that name other files (ffconcat, playlists in an .mp4)",
        "not followed",
        builder_media=("lists_of_other_files_are_not_followed", "what_is_no_recording_is_unreadable"),
    ),
    _case(
        "S6",
        "markup in names, in report.html",
        "escaped; nothing is fetched, no script runs",
        builder_report=("every_text_of_a_folder_is_escaped", "nothing_is_fetched_and_nothing_runs"),
    ),
    _case(
        "S7",
        "hostile servers: redirects to files, names outside the folder, passwords in addresses",
        "refused; credentials are not sent to other hosts",
        manifests_stores=(
            "a_redirect_elsewhere_is_not_followed",
            "a_redirect_is_followed_with_the_range_and_without_the_password",
            "credentials_have_no_place_in_an_address_and_are_not_told",
            "the_hub_s_token_is_for_the_hub_alone",
        ),
        manifests_fetch="names_that_lead_elsewhere_are_refused",
        builder_downloads="an_archive_that_would_write_elsewhere_is_refused",
    ),
    _case(
        "S8",
        "random damage to every file that may come from outside",
        "a value or the documented error in one line",
        prove_fuzz=(
            "a_damaged_file_gives_a_value_or_the_documented_error",
            "a_damaged_folder_gives_problems_or_the_documented_error",
            "any_file_names_give_clips_or_one_error",
            "a_damaged_checkpoint_gives_weights_or_the_documented_error",
        ),
    ),
    _case(
        "S20",
        "a folder from a stranger: links, hard links, pipes and deep folders in the place of any file",
        "refused and named; nothing outside is written, moved or removed, and nothing waits",
        manifests_handed_over=(
            "no_command_writes_or_removes_through_a_link",
            "a_lock_that_is_another_file_is_not_written",
            "a_partial_file_that_is_another_file_is_not_written",
            "a_user_s_own_link_to_a_folder_of_shards_works",
            "a_pipe_or_a_loop_keeps_nobody_waiting",
            "hidden_entries_are_named_and_change_nothing",
            "folders_that_the_index_does_not_know_are_named_however_deep",
        ),
        prove_fuzz="a_folder_from_a_stranger_reaches_nothing_outside",
    ),
    _case(
        "S21",
        "state that a stranger left: a withdrawal of other speakers, lists that name files of the user",
        "not resumed; only what a fetch put there is removed",
        manifests_handed_over=(
            "a_withdrawal_that_was_not_asked_for_is_refused",
            "a_withdrawal_that_was_only_claimed_does_not_skip_the_check",
            "a_withdrawal_of_another_user_is_refused",
            "what_is_no_list_of_speakers_is_told_in_a_line",
            "a_publisher_removes_only_what_was_fetched",
            "leftovers_of_a_killed_fetch_go_with_the_next",
        ),
    ),
    _case(
        "S22",
        "sparse files, tar headers of gigabytes, pictures of 200,000 scans, numbers of 400 digits",
        "refused by size or header before reading",
        manifests_handed_over="a_sparse_file_is_not_read",
        manifests_index=(
            "a_header_of_gigabytes_is_not_read",
            "hostile_dataset_is_refused",
            "hostile_receipt_is_refused",
        ),
        manifests_schema="a_picture_of_very_many_scans_is_refused_before_decoding",
    ),
    _case(
        "S23",
        "redirects into private networks, secrets in addresses, control characters in names, odd environments",
        "not followed, not printed, escaped; one line and the exit status",
        manifests_stores=(
            "a_redirect_to_a_link_local_address_is_not_followed",
            "a_public_server_does_not_redirect_into_private_networks",
            "the_target_of_a_redirect_is_not_told",
            "secrets_with_a_slash_are_not_told_either",
            "a_home_folder_of_nobody_is_told",
            "a_pause_that_a_server_asks_for_is_a_number",
        ),
        manifests_cli=(
            "words_from_files_control_no_terminal_and_fit_any_encoding",
            "what_is_said_cannot_control_a_terminal",
            "a_closed_or_full_output_is_a_failure_without_a_traceback",
            "a_user_without_an_entry_in_passwd_and_without_a_home_can_run_everything",
        ),
    ),
    _case(
        "S24",
        "Ctrl-C in a slow transfer or while waiting for a lock; servers of 500 bytes a second",
        "ends at once and can be run again; too slow a server is given up, what came is kept",
        manifests_cli=(
            "ctrl_c_ends_a_fetch_from_a_slow_server",
            "ctrl_c_ends_a_command_that_waits_for_a_lock",
            "ctrl_c_ends_a_share_to_a_slow_place",
        ),
        manifests_download=(
            "a_server_that_is_too_slow_is_given_up",
            "a_slow_server_of_at_least_that_rate_will_do",
            "who_waits_for_another_process_can_be_stopped",
        ),
    ),
    _case(
        "S25",
        "checkpoints that run no code and would take all memory or time: compressed, nested, two lists of entries",
        "refused before they are read",
        train_checkpoint_scan=(
            "a_compressed_archive_is_refused",
            "keys_that_take_for_ever_to_hash_are_refused",
            "long_chains_of_tuples_are_refused",
            "byte_arrays_of_any_length_are_refused",
            "the_entries_that_are_checked_are_those_that_torch_reads",
            "the_command_refuses_them_in_one_line",
        ),
        prove_fuzz="a_checkpoint_archive_of_any_build_gives_weights_or_the_documented_error",
    ),
    _case(
        "S26",
        "weights, statistics or settings of a classifier that are not finite or contradict each other",
        "one line; no class with the probability nan",
        train_weights="weights_that_are_not_finite_are_refused",
        train_checkpoint="weights_that_are_not_finite_are_not_resumed",
        train_transforms="statistics_of_which_no_number_follows_are_refused",
        train_predict=(
            "no_class_has_a_probability_that_is_not_a_number",
            "settings_that_disagree_are_one_line",
            "a_corpus_that_states_nothing_is_exported",
        ),
    ),
    _case(
        "S27",
        "settings with spaces, quotes, `;`, `$` and commands; formulas in names",
        "passed on literally; no shell, make or spreadsheet runs them",
        make=(
            "a_setting_is_neither_run_nor_changed",
            "no_setting_of_any_target_is_run",
            "the_checkout_may_be_in_a_folder_of_any_name",
        ),
        train_predict="a_cell_is_no_formula",
    ),
    _case(
        "S28",
        "folders whose hashes agree, with folds, receipts, rows or samples that no command accepts",
        "`verify` and `share` name the file; nothing is shared",
        manifests_verify=(
            "content_that_a_command_would_refuse_is_named",
            "a_folder_that_another_command_would_refuse_is_not_shared",
        ),
    ),
    _case(
        "S29",
        "responses whose headers, informational responses or last lines never end; encoded ones",
        "given up after 64 KiB or 30 seconds; refused with that reason",
        manifests_stores=(
            "headers_without_an_end_are_given_up",
            "a_few_informational_responses_are_passed_over",
            "limits_of_lines_are_for_each_chunk",
            "an_encoded_response_is_refused_with_that_reason",
        ),
    ),
    _case(
        "S30",
        "paths and addresses that cannot be",
        "one line after the first try; only errors that may pass are tried again",
        manifests_stores=(
            "a_path_that_cannot_be_is_not_tried_again",
            "an_address_that_cannot_be_asked_is_not_asked_again",
            "a_disk_that_may_recover_is_tried_again",
        ),
    ),
    _case(
        "S31",
        "workbooks that unpack to gigabytes, lie about their size or are damaged; names that control a terminal",
        "read within bounded memory, or refused in one line",
        builder_folder_tables=(
            "what_a_workbook_says_about_its_size_is_not_believed",
            "cells_far_away_cost_neither_time_nor_memory",
            "a_workbook_that_unpacks_to_too_much_is_not_unpacked",
            "a_workbook_that_lies_about_its_size_is_not_believed",
            "entities_that_multiply_are_refused",
            "damaged_workbooks_give_clips_or_one_error",
            "problems_cannot_control_the_terminal",
            "names_in_an_index_are_not_trusted",
            "a_hostile_name_is_one_short_line",
        ),
    ),
)

RECORDINGS = (
    _case(
        "M1",
        "losslessly cut MP4s, whose edit list hides frames",
        "built, with the pictures and the sound of the cut",
        builder_odd_recordings=(
            "a_losslessly_cut_recording_shows_what_its_edit_list_says",
            "a_cut_that_skips_whole_groups_of_pictures",
            "open_groups_of_pictures_cut_losslessly",
            "a_lossless_cut_that_was_cut_off_is_still_truncated",
        ),
    ),
    _case(
        "M2",
        "sound in 8 to 64 channels, or with a format that changes",
        "the mean of all channels; resampled, or dropped for good as `decode_error`",
        builder_odd_recordings=(
            "any_number_of_channels_is_averaged",
            "compressed_sound_in_seven_one",
            "sound_that_changes_within_the_recording",
            "sound_whose_times_are_lost_where_it_changes_is_dropped_for_good",
            "changing_sound_and_pictures_are_no_error_of_the_second_decoder",
        ),
    ),
    _case(
        "M3",
        "parts of recordings in any container, with or without an index, at any start",
        "the part, counted from the recording's start as in a player, or `truncated`",
        builder_odd_recordings=(
            "any_segment_of_any_container",
            "a_part_counts_from_the_start_of_its_recording",
            "a_part_that_starts_in_open_groups_of_pictures",
            "a_segment_after_the_end_is_truncated",
            "a_segment_of_a_real_recording_without_an_index",
            "what_precedes_a_part_is_not_decoded",
            "what_surrounds_a_part_counts_from_the_start_of_its_recording",
        ),
    ),
    _case(
        "M4",
        "headers that make no sense: geometry, clocks, sample rates, sizes of chunks; words in titles",
        "decoded as it is, or dropped with one reason by both decoders",
        builder_odd_recordings=(
            "recordings_joined_end_to_end_have_two_clocks",
            "a_display_matrix_of_zeros_turns_nothing",
            "mirrored_pictures_are_mirrored_back",
            "a_picture_too_wide_for_square_pixels",
            "words_in_a_title_are_no_words_of_the_program",
            "a_title_in_any_encoding",
            "a_sample_rate_that_stretches_seconds_to_hours",
            "sound_whose_times_are_weeks_apart_takes_no_memory",
            "chunks_of_negative_size",
            "a_sample_rate_that_leaves_no_sample",
            "samples_that_are_no_numbers_are_refused",
            "samples_out_of_range_are_clipped",
            "formats_that_are_not_supported",
        ),
        prove_fuzz="a_recording_with_a_damaged_header_is_decoded_or_dropped",
    ),
    _case(
        "M5",
        "an error of the program while it builds a clip",
        "dropped as `internal_error` with its words, not tried again; the other clips are built",
        builder_pool="clips_that_end_their_worker_are_dropped_and_the_rest_goes_on",
        builder_run="clips_that_meet_an_error_of_the_program_are_dropped_for_good",
    ),
    _case(
        "M6",
        "pipes in place of files, links in circles, tables without end, names that cannot be printed",
        "not opened, followed once, or refused in one line",
        builder_datasets=(
            "pipes_in_place_of_files_are_not_opened",
            "links_that_lead_in_circles_are_followed_once",
            "folder_table_larger_than_any_table_is_not_read",
            "folder_emotion_that_cannot_be_printed_is_refused",
        ),
        builder_demo="a_pipe_in_place_of_the_manifest_is_not_opened",
        builder_cli=("the_home_of_nobody_is_one_line", "a_user_without_an_entry_in_the_password_file"),
    ),
    _case(
        "M7",
        "sound recordings with odd times: a frame is held for seconds, shown again or missing, a clock starts anywhere",
        "built without a flag; what is really cut off is `truncated`",
        builder_odd_recordings=(
            "a_frame_that_is_held_for_seconds",
            "a_matroska_whose_clock_does_not_start_at_0",
            "frames_that_are_shown_again",
            "a_fragmented_recording_whose_sound_starts_first",
        ),
    ),
    _case(
        "M8",
        "damage before, in and after a part of a recording; other damaged recordings before it",
        "dropped only for damage that its frames depend on; the words do not depend on the order of work",
        builder_odd_recordings=(
            "damage_counts_where_the_part_depends_on_it",
            "frames_that_are_lost_are_damage",
            "words_of_one_recording_do_not_depend_on_the_others",
        ),
    ),
    _case(
        "M9",
        "edit lists without end, pictures of 8K and more, gigabytes of sound",
        "reduced, or dropped for good before they are read",
        builder_odd_recordings=(
            "an_edit_list_without_end_is_not_expanded",
            "files_without_a_long_edit_list_pass",
            "large_pictures_are_reduced",
            "pictures_of_8k_take_little_memory",
            "pictures_larger_than_any_are_refused",
            "hours_of_sound_are_not_read",
        ),
        builder_clip="transforms_of_a_reduced_recording_map_its_full_size",
    ),
    _case(
        "M10",
        "a sound file named in the table for a recording with sound, or one that cannot be used",
        "the file is used; if that is impossible the recording's sound, flagged `sound_from_recording`",
        builder_media=(
            "a_named_sound_file_comes_first",
            "a_named_sound_file_that_cannot_be_used_is_flagged",
            "a_named_sound_file_that_cannot_be_used_and_no_other_sound",
        ),
        builder_clip="a_named_sound_file_is_recorded_with_its_hash",
    ),
)

SHARING = (
    _case(
        "H1",
        "share killed at any change of the destination, in a folder or a bucket",
        "the copy never looks complete; the next run completes it",
        manifests_share=(
            "killed_anywhere_it_never_looks_whole_and_goes_on",
            "killed_while_replacing_an_older_version",
            "killed_while_sending_to_a_bucket",
        ),
    ),
    _case(
        "H2",
        "a file arrives damaged, or was replaced at the destination",
        "noticed by its hash, sent again",
        manifests_share=(
            "only_what_is_not_right_there_is_sent_again",
            "wrong_objects_are_sent_again",
            "what_arrives_damaged_is_noticed",
        ),
    ),
    _case(
        "H3",
        "connections cut, wrong lengths, servers that stall",
        "resumed where it was cut; after the last retry the received part is kept",
        manifests_download=(
            "a_cut_connection_is_gone_on_from_where_it_was_cut",
            "a_length_that_is_told_too_long_is_no_harm",
            "a_length_that_is_told_too_short_is_refused",
            "a_longer_file_is_refused_and_not_taken_in",
            "a_server_that_never_answers_is_given_up_and_what_came_is_kept",
        ),
    ),
    _case(
        "H4",
        "wrong bytes from a server",
        "refused before decoding; the message names file, found and expected hash",
        manifests_download="wrong_bytes_are_tried_once_more_and_refused",
        manifests_fetch="one_wrong_shard_does_not_keep_the_rest",
        train_remote="wrong_bytes_are_never_decoded",
        train_sharing="training_begins_while_shards_arrive_and_a_wrong_one_ends_it_until_it_is_mended",
    ),
    _case(
        "H5",
        "fetch killed at any change, or several at once",
        "no incomplete file under a final name; each shard is transferred once",
        manifests_fetch=(
            "killed_at_any_change_nothing_half_has_its_name_and_the_next_run_ends_alike",
            "a_run_that_was_ended_is_gone_on_with",
            "several_processes_fetch_each_shard_once",
        ),
    ),
    _case(
        "H6",
        "withdrawal killed at any change",
        "the same command completes it; no build starts before that",
        manifests_withdraw="killed_at_any_change_the_same_command_ends_it",
        builder_run=(
            "a_withdrawal_that_was_killed_is_ended_before_anything_is_built",
            "who_was_withdrawn_is_left_out_of_later_builds",
        ),
        manifests_fetch="a_speaker_who_was_withdrawn_there_is_told_and_removed_when_asked",
    ),
    _case(
        "H7",
        "the corpus's server drops connections, sends wrong bytes or is unreachable",
        "retried, or listed, with the other files kept",
        builder_downloads=(
            "what_went_wrong_once_is_made_good",
            "what_stays_wrong_is_listed_and_the_rest_kept",
            "wrong_bytes_of_an_archive_are_refused_by_its_md5",
            "a_dead_home_is_not_asked_for_every_file",
        ),
    ),
    _case(
        "H8",
        "machines that build together: a driver or worker killed, crashing and hanging clips, a shard built twice",
        "every engine produces the same bytes",
        builder_engines=(
            "equal_bytes_with_a_clip_that_is_poison_and_one_that_hangs",
            "killed_then_resumed_ends_with_the_same_bytes",
            "every_shard_built_twice_at_once",
            "a_dask_worker_that_is_killed_costs_nothing",
            "a_clip_that_kills_every_dask_worker_ends_the_build_in_one_line",
        ),
    ),
    _case(
        "H9",
        "a million clips in 20,000 shards",
        "every stage within 2 GB; twice the clips take twice the work",
        bench_scale=("a_million_clips_stay_small", "twice_the_clips_take_no_more_than_twice_the_work"),
    ),
)

MATRIX = (*FAULTS, *RECORDINGS, *SAFETY, *SHARING)
