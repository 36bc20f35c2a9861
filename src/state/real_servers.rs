//! The real servers of one virtual server.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use litemap::LiteMap;

use super::{RealServer, RealServerKey};

/// The real servers of a virtual server, in the order of their keys.
///
/// A sorted list: most virtual servers have few real servers, for which a tree takes twice the memory. The wanted and
/// the actual real servers are the same most of the time and then share one list ([`RealServers::share`]). A clone
/// costs nothing; changing a shared list copies it first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RealServers(Arc<LiteMap<RealServerKey, RealServer>>);

impl RealServers {
    /// Pairs each real server with the one of the same key in the other list, if any, in one pass over both lists.
    pub fn beside<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a RealServerKey, &'a RealServer, Option<&'a RealServer>)> {
        let mut others = other.iter().peekable();
        self.iter().map(move |(key, server)| {
            // Nearly all keys are in both lists, and a test for equality is faster than a test for order.
            let known = others.next_if(|(other, _)| *other == key).or_else(|| {
                while others.next_if(|(other, _)| *other < key).is_some() {}
                others.next_if(|(other, _)| *other == key)
            });
            (key, server, known.map(|(_, known)| known))
        })
    }

    /// The real servers whose keys the other list does not have.
    pub fn without<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a RealServerKey, &'a RealServer)> {
        self.beside(other).filter_map(|(key, server, known)| known.is_none().then_some((key, server)))
    }

    /// Shares the other list if both lists are equal.
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
    /// If several items have the same key, the last one counts.
    fn from_iter<I: IntoIterator<Item = (RealServerKey, RealServer)>>(items: I) -> Self {
        let items: Vec<_> = items.into_iter().collect();
        // The items are nearly always in order, and checking this is faster than sorting them.
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
