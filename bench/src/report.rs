//! The tables, the goals and how they are told: as Markdown and as JSON.

use crate::{figures::Rounds, machine::Machine};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// One scenario: a row per contender, a column per figure.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    /// Names with their units, and how many decimals are worth showing.
    pub(crate) columns: Vec<(&'static str, usize)>,
    pub(crate) rows: Vec<(&'static str, Vec<Rounds>)>,
}

impl Table {
    /// A contender's figure, if both were measured.
    pub(crate) fn figure(&self, row: &str, column: &str) -> Option<&Rounds> {
        let column = self.columns.iter().position(|(name, _)| *name == column)?;
        self.rows.iter().find(|(name, _)| *name == row)?.1.get(column)
    }
}

/// What a figure has to keep to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Debug)]
struct Goal {
    text: String,
    value: Rounds,
    bound: Bound,
}

impl Goal {
    fn holds(&self) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.value.median() <= bound,
            Bound::AtLeast(bound) => self.value.median() >= bound,
        }
    }

    fn verdict(&self) -> &'static str {
        if self.holds() { "PASS" } else { "MISS" }
    }

    fn bound(&self) -> String {
        match self.bound {
            Bound::AtMost(bound) => format!("≤ {bound}"),
            Bound::AtLeast(bound) => format!("≥ {bound}"),
        }
    }
}

/// Everything that was measured.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Machine,
    tables: Vec<Table>,
    goals: Vec<Goal>,
}

impl Report {
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine, tables: Vec::new(), goals: Vec::new() }
    }

    /// Sets a goal for a figure, where it was measured.
    pub(crate) fn goal(&mut self, text: impl Into<String>, value: Option<Rounds>, bound: Bound) {
        if let Some(value) = value {
            self.goals.push(Goal { text: text.into(), value, bound });
        }
    }

    pub(crate) fn add(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// Whether something was measured and every goal was met.
    pub(crate) fn holds(&self) -> bool {
        !self.tables.is_empty() && self.goals.iter().all(Goal::holds)
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}\n\n", self.machine);
        text.push_str("Each figure is the median of the rounds, and in brackets the range.\n\n");
        text.push_str("### Goals\n\n| | measured | goal | |\n|---|---|---|---|\n");
        for goal in &self.goals {
            let (value, bound, verdict) = (cell(&goal.value, 2), goal.bound(), goal.verdict());
            let _ = writeln!(text, "| {} | {value} | {bound} | {verdict} |", goal.text);
        }
        for table in &self.tables {
            let _ = write!(text, "\n### {}\n\n{}\n\n|", table.title, table.about);
            for (name, _) in &table.columns {
                let _ = write!(text, " | {name}");
            }
            let _ = writeln!(text, " |\n|---{}|", "|---".repeat(table.columns.len()));
            for (name, figures) in &table.rows {
                let _ = write!(text, "| {name}");
                for (figure, (_, decimals)) in figures.iter().zip(&table.columns) {
                    let _ = write!(text, " | {}", cell(figure, *decimals));
                }
                text.push_str(" |\n");
            }
        }
        text.trim_end().to_owned()
    }

    pub(crate) fn json(&self) -> Value {
        let figures = self.tables.iter().flat_map(|table| {
            table.rows.iter().flat_map(move |(contender, figures)| {
                figures.iter().zip(&table.columns).map(move |(figure, (name, _))| {
                    let mut value = spread(figure);
                    value["scenario"] = json!(table.title);
                    value["contender"] = json!(contender);
                    value["figure"] = json!(name);
                    value
                })
            })
        });
        let goals = self.goals.iter().map(|goal| {
            let mut value = spread(&goal.value);
            value["goal"] = json!(goal.text);
            value["bound"] = json!(goal.bound());
            value["met"] = json!(goal.holds());
            value
        });
        json!({
            "machine": self.machine.json(),
            "figures": figures.collect::<Vec<_>>(),
            "goals": goals.collect::<Vec<_>>(),
        })
    }
}

fn spread(rounds: &Rounds) -> Value {
    json!({
        "median": rounds.median(), "min": rounds.min(), "max": rounds.max(), "rounds": rounds.0,
    })
}

fn cell(rounds: &Rounds, decimals: usize) -> String {
    if rounds.0.is_empty() {
        return "–".to_owned();
    }
    let [median, min, max] = [rounds.median(), rounds.min(), rounds.max()];
    format!("{median:.decimals$} ({min:.decimals$} to {max:.decimals$})")
}
