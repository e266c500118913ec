//! What is known of a kind of objects.

use crate::services::objects::{EndpointSlice, Service};

/// What objects are told apart by.
pub(super) trait Keyed {
    /// Namespace and name.
    fn key(&self) -> (&str, &str);
}

impl Keyed for Service {
    fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

impl Keyed for EndpointSlice {
    fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

/// A word about objects.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News<T> {
    /// These are all.
    All(Vec<T>),
    /// This one is new, or another than it was.
    Put(T),
    /// There is none of this namespace and name.
    Gone(String, String),
    /// What has changed was told.
    Well,
    /// What has changed can not be had, for this reason.
    Failing(String),
}

/// The objects of a kind, and how it stands with them.
pub(super) struct Kept<T> {
    /// Sorted by key.
    objects: Vec<T>,
    /// Whether all were told once.
    pub(super) is_known: bool,
    /// Why there may be others by now.
    pub(super) error: Option<String>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            objects: Vec::new(),
            is_known: false,
            error: None,
        }
    }
}

impl<T: Keyed> Kept<T> {
    pub(super) fn objects(&self) -> &[T] {
        &self.objects
    }

    /// Takes in what was told. Whether objects may have changed by it.
    pub(super) fn hear(&mut self, news: News<T>) -> bool {
        match news {
            News::All(mut objects) => {
                objects.sort_by(|a, b| a.key().cmp(&b.key()));
                objects.dedup_by(|a, b| a.key() == b.key());
                self.objects = objects;
                self.is_known = true;
            }
            News::Put(object) => {
                let key = object.key();
                match self.objects.binary_search_by(|it| it.key().cmp(&key)) {
                    Ok(at) => self.objects[at] = object,
                    Err(at) => self.objects.insert(at, object),
                }
            }
            News::Gone(namespace, name) => {
                let key = (namespace.as_str(), name.as_str());
                match self.objects.binary_search_by(|it| it.key().cmp(&key)) {
                    Ok(at) => drop(self.objects.remove(at)),
                    Err(_) => return false,
                }
            }
            News::Well => {
                self.error = None;
                return false;
            }
            News::Failing(error) => {
                self.error = Some(error);
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, name: &str) -> Service {
        Service {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Service::default()
        }
    }

    fn names(kept: &Kept<Service>) -> Vec<(&str, &str)> {
        kept.objects().iter().map(Keyed::key).collect()
    }

    #[test]
    fn objects_come_change_and_go() {
        let mut kept = Kept::default();
        assert!(!kept.is_known);
        assert!(kept.hear(News::All(vec![service("b", "x"), service("a", "y")])));
        assert!(kept.is_known);
        assert!(kept.hear(News::Put(service("a", "z"))));
        let other = Service {
            client_ip_affinity: true,
            ..service("b", "x")
        };
        assert!(kept.hear(News::Put(other.clone())));
        assert_eq!(names(&kept), [("a", "y"), ("a", "z"), ("b", "x")]);
        assert_eq!(kept.objects()[2], other);
        assert!(kept.hear(News::Gone("a".to_owned(), "y".to_owned())));
        assert!(!kept.hear(News::Gone("a".to_owned(), "y".to_owned())));
        assert_eq!(names(&kept), [("a", "z"), ("b", "x")]);
        assert!(kept.hear(News::All(vec![service("c", "x")])));
        assert_eq!(names(&kept), [("c", "x")]);
    }

    #[test]
    fn an_error_leaves_the_objects() {
        let mut kept = Kept::default();
        kept.hear(News::All(vec![service("a", "y")]));
        assert!(!kept.hear(News::Failing("away".to_owned())));
        assert_eq!(kept.error.as_deref(), Some("away"));
        assert_eq!(names(&kept), [("a", "y")]);
        assert!(!kept.hear(News::Well));
        assert_eq!(kept.error, None);
    }
}
