//! `Pod` for the types that are generic over the family, and `aya::Pod` for all map types.

use bytemuck::{Pod, Zeroable};

use crate::{
    Addr4, Addr6, AffinityKey, BackendValue, FlowKey, FlowValue, FragmentKey, FragmentValue,
    FrontendKey, RangeKey, SockKey, SockValue,
};

macro_rules! pod {
    ($($generic:ident),*) => {$(
        // SAFETY: `repr(C)`, every field is itself `Pod`, and the size assertion beside the type
        // equals the sum of its fields' sizes: there is no padding byte. Any bit pattern is valid.
        unsafe impl Zeroable for $generic<Addr4> {}
        // SAFETY: as above.
        unsafe impl Zeroable for $generic<Addr6> {}
        // SAFETY: as above.
        unsafe impl Pod for $generic<Addr4> {}
        // SAFETY: as above.
        unsafe impl Pod for $generic<Addr6> {}
    )*};
}

pod!(
    AffinityKey,
    BackendValue,
    FlowKey,
    FlowValue,
    FragmentKey,
    FragmentValue,
    FrontendKey,
    RangeKey,
    SockKey,
    SockValue
);

#[cfg(feature = "user")]
mod aya_pod {
    use crate::{
        Addr4, Addr6, AffinityKey, AffinityValue, BackendStats, BackendValue, DeviceValue, FlowKey,
        FlowValue, FrontendKey, FrontendValue, RangeKey, Runtime, Schema, ServiceInfo, Settings,
        SockKey, SockValue, XdpDevice,
    };

    macro_rules! aya_pod {
        ($($ty:ty),* $(,)?) => {$(
            // SAFETY: `aya::Pod` asks for a type that is safe to view as bytes: it is
            // `bytemuck::Pod`, as the assertion below proves at compile time.
            unsafe impl aya::Pod for $ty {}
            const _: fn() = || {
                fn is_pod<T: bytemuck::Pod>() {}
                is_pod::<$ty>();
            };
        )*};
    }

    aya_pod!(
        AffinityKey<Addr4>,
        AffinityKey<Addr6>,
        AffinityValue,
        BackendStats,
        BackendValue<Addr4>,
        BackendValue<Addr6>,
        DeviceValue,
        FlowKey<Addr4>,
        FlowKey<Addr6>,
        FlowValue<Addr4>,
        FlowValue<Addr6>,
        FrontendKey<Addr4>,
        FrontendKey<Addr6>,
        FrontendValue,
        RangeKey<Addr4>,
        RangeKey<Addr6>,
        Runtime,
        Schema,
        ServiceInfo,
        Settings,
        SockKey<Addr4>,
        SockKey<Addr6>,
        SockValue<Addr4>,
        SockValue<Addr6>,
        XdpDevice,
    );
}
