//! Columns: the answers that each item gets, of a model or of a model about another's answer.
//!
//! Invariant: a review comes after the column that it reviews, and no review is reviewed.

use crate::batch::{Batch, Reviews};
use serde::{Deserialize, Serialize};

/// One of the answers that each item gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    /// The model, as an index of those of the batch; `None` where items name their own.
    pub(crate) model: Option<usize>,
    /// The column whose answer it reviews.
    pub(crate) reviewed: Option<usize>,
    /// Whether the run asks for it; one that is only reviewed is read from the files.
    pub(crate) is_asked: bool,
}

impl Column {
    /// A column that a model answers.
    pub(crate) const fn of_model(model: Option<usize>) -> Self {
        Self {
            model,
            reviewed: None,
            is_asked: true,
        }
    }
}

/// An answer's name among those of its item.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct AnswerName {
    pub(crate) model: String,
    /// The model whose answer it reviews.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "reviews")]
    pub(crate) reviewed: Option<String>,
}

#[cfg(test)]
impl AnswerName {
    /// The name of an answer that reviews none.
    pub(crate) fn of_model(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            reviewed: None,
        }
    }
}

impl core::fmt::Display for AnswerName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match &self.reviewed {
            None => f.write_str(&self.model),
            Some(reviewed) => write!(f, "{} on {reviewed}", self.model),
        }
    }
}

impl Batch {
    /// The number of a task among all.
    pub(crate) fn number_of(&self, item: usize, column: usize) -> usize {
        item.saturating_mul(self.columns.len())
            .saturating_add(column)
    }

    /// The item and the column of a task's number.
    pub(crate) fn place_of(&self, number: usize) -> (usize, usize) {
        let columns = self.columns.len().max(1);
        (number / columns, number % columns)
    }

    /// The model that answers a column of an item.
    pub(crate) fn model_of(&self, item: usize, column: usize) -> usize {
        let own = || self.own_models.get(self.items.own_model(item)?).copied();
        let model = self.columns.get(column).and_then(|column| column.model);
        model.or_else(own).unwrap_or_default()
    }

    /// The name of a column's answer to an item.
    pub(crate) fn name_of(&self, item: usize, column: usize) -> AnswerName {
        let model = |column: usize| {
            let name = self.models.get(self.model_of(item, column));
            name.cloned().unwrap_or_default()
        };
        let reviewed = self.columns.get(column).and_then(|column| column.reviewed);
        AnswerName {
            model: model(column),
            reviewed: reviewed.map(model),
        }
    }

    /// The names of all answers to an item, in the order of the columns.
    pub(crate) fn names_of(&self, item: usize) -> Vec<AnswerName> {
        let columns = 0..self.columns.len();
        columns.map(|column| self.name_of(item, column)).collect()
    }

    /// Finds the column of an answer to an item.
    pub(crate) fn column_of(&self, item: usize, name: &AnswerName) -> Option<usize> {
        let model = |column: usize| self.models.get(self.model_of(item, column));
        (0..self.columns.len()).find(|column| {
            let reviewed = self.columns.get(*column).and_then(|it| it.reviewed);
            model(*column) == Some(&name.model)
                && reviewed.and_then(model) == name.reviewed.as_ref()
        })
    }

    /// How a column of an item reviews, and the name of the answer that it reviews; `None` if it reviews none.
    pub(crate) fn reviewed_by(&self, item: usize, column: usize) -> Option<(&Reviews, AnswerName)> {
        let reviewed = self.columns.get(column)?.reviewed?;
        Some((self.reviews.as_ref()?, self.name_of(item, reviewed)))
    }

    /// The columns that review a column.
    pub(crate) fn reviews_of(&self, column: usize) -> impl Iterator<Item = usize> {
        let columns = self.columns.iter().enumerate();
        columns
            .filter(move |(_, other)| other.reviewed == Some(column))
            .map(|(index, _)| index)
    }
}
