//! `report_broken`: a writer's stream broke, or a holder changed its incarnation (W4).
//!
//! Nothing is resent at the same version: the grant ends and the version is raised (V1). A late report, of a grant that has ended by other
//! means, changes nothing.

use crate::fsm::command::{IntentKind, ReportBroken};
use crate::fsm::error::OpResult;
use crate::fsm::ops::Op;
use crate::fsm::ops::chunk::{Edit, discard, end_by_force, granted, not_granted};
use crate::fsm::reply::{Body, GrantReply, GrantState};
use crate::fsm::tables::inodes;

pub(crate) fn apply(op: &mut Op<'_, '_>, report: &ReportBroken) -> OpResult<Body> {
    Ok(Body { grant: Some(answer(op, report)?), ..Body::default() })
}

fn answer(op: &mut Op<'_, '_>, report: &ReportBroken) -> OpResult<GrantReply> {
    let Some(mut edit) = Edit::load(op.txn, report.chunk)? else {
        return Ok(not_granted(GrantState::Restart, report.index));
    };
    let own = edit.row.grant.filter(|g| g.session == op.session);
    match own {
        None => return Ok(not_granted(GrantState::Pending, report.index)),
        Some(grant) if grant.id != report.grant || edit.row.version != report.version => {
            return Ok(granted(edit.id, &edit.row));
        }
        Some(_) => {}
    }
    if edit.row.new {
        discard(op, edit.id, edit.stored())?; // W2
        return Ok(not_granted(GrantState::Restart, report.index));
    }
    let length = inodes::existing(op.txn, edit.row.inode)?.size;
    end_by_force(&mut edit, IntentKind::Bump, true, length);
    edit.save(op)?;
    Ok(not_granted(GrantState::Pending, report.index))
}
