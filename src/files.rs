//! Files that no other user can change. What we write is made new, is reached through no link, and
//! lies where only we and root may change anything ([`create`]). What we read and trust may be
//! reached through links, as certbot and Kubernetes make them; it, and every directory and link on
//! the way to it, belongs to us or root and cannot be changed by others ([`trusted`]).

pub(crate) mod create;
pub(crate) mod permissions;
pub(crate) mod trusted;
mod walk;
