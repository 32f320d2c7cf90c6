//! Figures as a person reads them.

use comfy_table::{CellAlignment, LineStyle, Table, presets};

use super::figure::{Figure, rounded};
use crate::costs::EachCosts;

/// One row per figure.
pub fn table(figures: &[Figure]) -> Table {
    with_counts(figures, "threads")
}

/// One row per figure of calls in flight.
pub fn in_flight(figures: &[Figure]) -> Table {
    with_counts(figures, "in flight")
}

/// One row per workload and calls in flight: what one operation has cost the metadata nodes.
pub fn costs(rows: &[(&Figure, EachCosts)]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header(["each", "in flight", "entries", "fsyncs", "node msgs", "client msgs", "switches", "CPU"]);
    for (figure, each) in rows {
        table.add_row([
            figure.workload.clone(),
            figure.threads.to_string(),
            rounded(each.entries),
            rounded(each.log_fsyncs),
            rounded(each.peer_messages),
            rounded(each.client_messages),
            rounded(each.context_switches),
            time(each.cpu_us),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn with_counts(figures: &[Figure], counted: &str) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header(["workload", counted, "", "", "p50", "p99", "longest"]);
    for figure in figures {
        let latency = |part: fn(&super::Latency) -> f64| {
            figure.latency.as_ref().map_or_else(String::new, |latency| time(part(latency)))
        };
        table.add_row([
            figure.workload.clone(),
            figure.threads.to_string(),
            rounded(figure.value),
            figure.unit.name().to_owned(),
            latency(|l| l.p50_us),
            latency(|l| l.p99_us),
            latency(|l| l.max_us),
        ]);
    }
    for column in table.column_iter_mut().enumerate().filter(|(at, _)| ![0, 3].contains(at)).map(|(_, c)| c) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Microseconds in the unit that suits them.
pub fn time(micros: f64) -> String {
    match micros {
        m if m >= 1e6 => format!("{} s", rounded(m / 1e6)),
        m if m >= 1e3 => format!("{} ms", rounded(m / 1e3)),
        m => format!("{} µs", rounded(m)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Latency, Unit};

    #[test]
    fn a_figure_is_a_row_with_its_unit_and_times_in_fitting_units() {
        let latency = Latency { p50_us: 12.34, p99_us: 4567.0, max_us: 1_234_567.0 };
        let figure = Figure {
            workload: "create".to_owned(),
            threads: 16,
            placement: None,
            unit: Unit::Operations,
            value: 12345.6,
            operations: 8000,
            seconds: 0.65,
            latency: Some(latency),
        };
        let text = table(&[figure.clone(), Figure { latency: None, ..figure }]).to_string();
        let rows: Vec<&str> = text.lines().filter(|l| l.contains("create")).collect();
        for part in ["16", "12,346", "ops/s", "12.3 µs", "4.57 ms", "1.23 s"] {
            assert!(rows[0].contains(part), "{part} is missing in {text}");
        }
        assert!(!rows[1].contains('µ'), "{text}");
    }
}
