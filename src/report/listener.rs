//! The reporter as the loop's listener: notes go to the log, metrics and health, and questions are answered.

use std::time::Instant;

use super::{Reporter, steps};
use crate::diff::Plan;
use crate::kernel::Outcome;
use crate::reconcile::Listener;
use crate::reconcile::core::Reconciler;
use crate::reconcile::explanation::Explanation;
use crate::reconcile::note::Note;
use crate::serve::questions::{About, Question};

impl Listener for Reporter {
    type Question = Question<Explanation>;

    fn tell(&mut self, reconciler: &Reconciler, notes: Vec<Note>, now: Instant) {
        Self::tell(self, reconciler, notes, now);
    }

    fn wrote(&mut self, reconciler: &Reconciler, plan: &Plan, outcomes: &[Outcome]) {
        steps::log(reconciler, plan, outcomes);
    }

    fn answer(&mut self, reconciler: &Reconciler, question: Self::Question, now: Instant) {
        // Questions wait in the queue while the program starts; those who asked do not wait that long.
        if question.is_given_up() {
            return;
        }
        let answer = match &question.about {
            About::Service(key) => reconciler.explain_service(key, now),
            About::Address(address) => reconciler.explain_address(*address, now),
            About::Troubles => Ok(reconciler.explain_troubles()),
        };
        question.answer(answer);
    }
}
