//! What happens to each connection of the table through kube-ipvs, documented in `CONFORMANCE.md` ([`document`]).

mod document;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use libtest_mimic::Trial;

use crate::table::{Found, Id, Question, ask_all};
use crate::{CLUSTER, row};

/// All results.
static FOUND: LazyLock<BTreeMap<Id, Found>> =
    LazyLock::new(|| ask_all(&CLUSTER, |question, found| *found == question.expected(question.requests())));

pub(crate) fn rows() -> impl Iterator<Item = Trial> {
    let questions = Question::all().map(|question| {
        let Question { service, entry, client, protocol, family } = question;
        let policies = format!("internal-{}/external-{}", service.internal, service.external);
        let words: [&dyn fmt::Display; 7] =
            [&"table", &question.endpoints(), &policies, &entry, &client.name, &protocol, &family];
        row(&words, move || {
            assert_eq!(FOUND[&question.id()], question.expected(question.requests()), "found, and expected");
        })
    });
    questions.chain([Trial::test("table/as-committed", || {
        document::compare(&document::text());
        Ok(())
    })])
}
