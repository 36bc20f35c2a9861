//! The real servers of one virtual server.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use litemap::LiteMap;

use super::{RealServer, RealServerKey};

/// The real servers of a virtual server, by key, in order: a list, since most have a few, for which a tree takes twice the
/// memory. What is wanted and what is there are the same most of the time and share it then ([`RealServers::share`]); a
/// copy costs nothing, and whoever changes what others share gets a list of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RealServers(Arc<LiteMap<RealServerKey, RealServer>>);

impl RealServers {
    /// Each with the one of the same key in the other list, if there is one, by one walk through both.
    pub fn beside<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a RealServerKey, &'a RealServer, Option<&'a RealServer>)> {
        let mut others = other.iter().peekable();
        self.iter().map(move |(key, server)| {
            // Nearly all are in both, and equality is seen sooner than order.
            let known = others.next_if(|(other, _)| *other == key).or_else(|| {
                while others.next_if(|(other, _)| *other < key).is_some() {}
                others.next_if(|(other, _)| *other == key)
            });
            (key, server, known.map(|(_, known)| known))
        })
    }

    /// Those that the other list does not have.
    pub fn without<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a RealServerKey, &'a RealServer)> {
        self.beside(other).filter_map(|(key, server, known)| known.is_none().then_some((key, server)))
    }

    /// Shares the other's list if it is the same.
    pub fn share(&mut self, other: &Self) {
        if self == other {
            self.0 = Arc::clone(&other.0);
        }
    }
}

impl Deref for RealServers {
    type Target = LiteMap<RealServerKey, RealServer>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for RealServers {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl FromIterator<(RealServerKey, RealServer)> for RealServers {
    /// Of several with one key the last counts.
    fn from_iter<I: IntoIterator<Item = (RealServerKey, RealServer)>>(items: I) -> Self {
        let items: Vec<_> = items.into_iter().collect();
        // Nearly always they are in order, which is seen sooner than it is made.
        Self(Arc::new(if items.is_sorted_by(|(left, _), (right, _)| left < right) {
            LiteMap::from_sorted_store_unchecked(items)
        } else {
            items.into_iter().collect()
        }))
    }
}

impl<const N: usize> From<[(RealServerKey, RealServer); N]> for RealServers {
    fn from(items: [(RealServerKey, RealServer); N]) -> Self {
        items.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a RealServers {
    type Item = (&'a RealServerKey, &'a RealServer);
    type IntoIter = <&'a LiteMap<RealServerKey, RealServer> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (&*self.0).into_iter()
    }
}
