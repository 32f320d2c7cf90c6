//! The results of a run: `results.json`, `results.md` and `ratios.svg` in one folder, and a summary at the end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::args::Setting;
use crate::machine::Machine;
use crate::plan::{Group, Sizes};
use crate::rows::Row;
use crate::source::Source;
use crate::system::System;
use crate::{differences, markdown, plot};

/// Of the JSON's layout; raised when a field changes its meaning.
const FORMAT: u32 = 1;

/// Everything that is known about a run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub format: u32,
    pub revision: String,
    /// Absent if it was not measured.
    pub moosefs_version: Option<String>,
    pub machine: Machine,
    pub systems: Vec<System>,
    pub groups: Vec<Group>,
    pub sizes: Sizes,
    pub is_quick: bool,
    pub tree: Tree,
    pub rounds_planned: usize,
    pub rounds: usize,
    pub seconds: f64,
    /// How busy the processors were before each turn, while nothing of the run was up: mean and maximum.
    pub busy_percent: Busy,
    pub differences: Vec<&'static str>,
    pub rows: Vec<Row>,
}

/// The tree of the programs.
#[derive(Debug, Clone, Serialize)]
pub struct Tree {
    pub path: PathBuf,
    pub files: usize,
    pub bytes: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Busy {
    pub mean: f64,
    pub max: f64,
    pub turns: usize,
}

impl Report {
    pub fn new(setting: &Setting, machine: Machine, moosefs_version: Option<String>, source: &Source) -> Self {
        let plan = &setting.plan;
        Self {
            format: FORMAT,
            revision: setting.revision.clone(),
            moosefs_version,
            machine,
            systems: plan.systems.clone(),
            groups: plan.groups.clone(),
            sizes: plan.sizes,
            is_quick: plan.sizes == Sizes::QUICK,
            tree: Tree { path: setting.source.clone(), files: source.files, bytes: source.bytes },
            rounds_planned: plan.rounds,
            rounds: 0,
            seconds: 0.0,
            busy_percent: Busy::default(),
            differences: differences::sentences(),
            rows: Vec::new(),
        }
    }

    /// Notes how busy the machine was before a turn.
    pub fn note_busy(&mut self, percent: f64) {
        let busy = &mut self.busy_percent;
        busy.mean = (busy.mean * busy.turns as f64 + percent) / (busy.turns + 1) as f64;
        busy.max = busy.max.max(percent);
        busy.turns += 1;
    }

    pub fn finish_round(&mut self, round: usize, elapsed: Duration, rows: Vec<Row>) {
        self.rounds = round;
        self.seconds = elapsed.as_secs_f64();
        self.rows = rows;
    }

    /// Replaces the three files.
    pub fn write(&self, out: &Path) -> Result<()> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        for (name, text) in
            [("results.json", json), ("results.md", markdown::page(self)), ("ratios.svg", plot::svg(&self.rows))]
        {
            let path = out.join(name);
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Floors that were reached, and all of them.
    pub fn floors(&self) -> (usize, usize) {
        let all = || self.rows.iter().flat_map(|row| &row.floors);
        (all().filter(|judged| judged.ok).count(), all().count())
    }

    /// What a person wants to know at the end.
    pub fn tell(&self, out: &Path) {
        println!();
        for row in &self.rows {
            for judged in &row.floors {
                println!("{}", markdown::sentence(&row.key, judged));
            }
        }
        let (reached, all) = self.floors();
        if all > 0 {
            println!("{reached} of {all} floors reached");
        }
        println!("{} of {} rounds in {:.1} minutes", self.rounds, self.rounds_planned, self.seconds / 60.0);
        let busy = &self.busy_percent;
        println!("the machine was {:.1} % busy before a turn, at most {:.1} %", busy.mean, busy.max);
        let out = out.display();
        println!("results: {out}/results.md, {out}/results.json, {out}/ratios.svg");
        println!("to publish them: cp {out}/results.md {out}/results.json {out}/ratios.svg docs/bench/");
    }
}
