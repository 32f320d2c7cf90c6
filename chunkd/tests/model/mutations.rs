//! Each rule that can be dropped is dropped once, in the scenario that needs it, and the checker has to find a counterexample.
//!
//! Tests that begin with `mended` drop what was added to the protocol because of the counterexample that they show.

use crate::explore::{Property, caught};
use crate::rules::Rule;
use crate::scenarios::*;

#[test]
fn w5_readers_wait_for_the_resend() {
    caught(Rule::HoldReads, overwrite(), Property::Safety);
}

#[test]
fn v1_holders_are_made_equal() {
    caught(Rule::Equalise, chain_of_three(), Property::Safety);
}

#[test]
fn r2_repair_done_is_conditional() {
    caught(Rule::RepairCondition, repair(), Property::Safety);
}

#[test]
fn w2_only_a_create_mark_creates() {
    caught(Rule::CreateMark, disk_loss(), Property::Safety);
}

#[test]
fn f3_incarnations_are_compared() {
    caught(Rule::Incarnation, overwrite(), Property::Safety);
}

#[test]
fn f2_leases_end_before_a_holder_is_left_out() {
    caught(Rule::LeaseWait, partition(), Property::Safety);
}

#[test]
fn v3_the_dirty_journal_tells_clean_from_dirty() {
    caught(Rule::DirtyJournal, overwrite(), Property::Safety);
}

#[test]
fn w9_recovery_cuts() {
    caught(Rule::CutAtLength, dying_writer(), Property::Safety);
}

#[test]
fn w6_all_holders_acknowledge() {
    caught(Rule::AllSync, overwrite(), Property::Safety);
}

#[test]
fn f2_old_terms_are_refused() {
    caught(Rule::TermFence, repair(), Property::Safety);
}

#[test]
fn r1_the_head_hides_what_is_not_acknowledged() {
    caught(Rule::HeadRefuses, chain_of_three(), Property::Safety);
}

#[test]
fn w7_a_clean_end_is_a_synced_end() {
    caught(Rule::CleanEnd, two_writers(), Property::Safety);
}

#[test]
fn w2_deleted_ids_are_remembered() {
    caught(Rule::Tombstone, create(), Property::Safety);
}

#[test]
fn mended_other_writers_wait_for_the_resend() {
    caught(Rule::HoldWriters, two_writers(), Property::Safety);
}

#[test]
fn mended_a_hold_survives_the_next_intent() {
    caught(Rule::HoldSticks, hold(), Property::Safety);
}

#[test]
fn mended_a_resend_is_clipped() {
    caught(Rule::ClipResend, truncate(), Property::Safety);
}

#[test]
fn mended_a_bump_cuts_too() {
    caught(Rule::BumpCuts, dying_writer(), Property::Safety);
}

#[test]
fn mended_a_new_round_reopens() {
    caught(Rule::RoundReopens, partition(), Property::Safety);
}

#[test]
fn mended_fix_names_its_sources() {
    caught(Rule::FixSource, leaders(), Property::Safety);
}

#[test]
fn mended_reads_name_the_lease() {
    caught(Rule::LeaseNumber, partition(), Property::Safety);
}

#[test]
fn mended_a_deposed_leader_gives_no_leases() {
    caught(Rule::LeaderLease, partition(), Property::Safety);
}

#[test]
fn mended_all_dirty_waits_for_everybody() {
    caught(Rule::AllDirtyAnswers, partition(), Property::Safety);
}

#[test]
fn mended_a_page_cache_beats_a_power_cut() {
    caught(Rule::ProcessBeatsPower, hold(), Property::Safety);
}

#[test]
fn mended_a_replica_in_doubt_serves_nothing() {
    caught(Rule::DoubtServesNothing, overwrite(), Property::Safety);
}

#[test]
fn mended_a_create_token_creates_once() {
    caught(Rule::CreateOnce, create_on_bad_disk(), Property::Safety);
}

#[test]
fn mended_the_journal_lasts_until_acked() {
    caught(Rule::JournalUntilAcked, overwrite(), Property::Safety);
}

#[test]
fn mended_growth_waits_for_ready() {
    caught(Rule::GrowthWaits, truncate(), Property::Safety);
}

#[test]
fn mended_a_copy_serves_nothing() {
    caught(Rule::CopyServesNothing, disk_loss(), Property::Safety);
}

#[test]
fn mended_fix_journals() {
    caught(Rule::FixJournals, partition(), Property::Safety);
}

#[test]
fn mended_a_vanished_file_is_dirty() {
    caught(Rule::VanishedIsDirty, create(), Property::Progress);
}
