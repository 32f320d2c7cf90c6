//! Runs one exploration to its end and judges it.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use crate::action::{PROGRESS, SAFETY};
use crate::rules::Rule;
use crate::scenario::{Chunk, Scenario};

/// What a dropped rule must break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// P1, P2 or P3.
    Safety,
    /// P5.
    Progress,
}

/// With all rules on nothing breaks, and everything that the scenario is there for comes up.
pub fn holds(scenario: Scenario) {
    let reached = scenario.reached;
    let checker = explore(Chunk { scenario, dropped: None });
    for property in [SAFETY, PROGRESS] {
        let path = checker.discovery(property);
        assert!(
            path.is_none(),
            "{property} broken; MODEL_TRACE=1 shows the steps: {:?}",
            path.map(|p| p.last_state().ghost.broken)
        );
    }
    for (name, _) in reached {
        assert!(checker.discovery(name).is_some(), "never reached: {name}");
    }
}

/// Without `rule` the scenario has a counterexample.
pub fn caught(rule: Rule, scenario: Scenario, property: Property) {
    let progress = property == Property::Progress;
    let checker = explore(Chunk { scenario: Scenario { reached: &[], progress, ..scenario }, dropped: Some(rule) });
    let name = match property {
        Property::Safety => SAFETY,
        Property::Progress => PROGRESS,
    };
    assert!(checker.discovery(name).is_some(), "dropping {rule:?} went unnoticed");
}

/// Breadth first, so that a counterexample is a shortest one; one thread, so that it is always the same.
fn explore(chunk: Chunk) -> impl Checker<Chunk> {
    let start = Instant::now();
    let title = format!("{} without {:?}", chunk.scenario.name, chunk.dropped);
    let checker = chunk.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    if std::env::var_os("MODEL_TRACE").is_some() {
        let mut text = format!(
            "{title}: {} states, {} steps, {:.1?}\n",
            checker.unique_state_count(),
            checker.state_count(),
            start.elapsed()
        );
        for path in [SAFETY, PROGRESS].iter().filter_map(|name| checker.discovery(name)) {
            text += &format!("  {:?}\n", path.last_state().ghost.broken);
            path.into_actions().iter().for_each(|a| text += &format!("    {a:?}\n"));
        }
        eprint!("{text}");
    }
    checker
}
