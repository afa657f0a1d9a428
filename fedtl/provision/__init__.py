"""The coordinator's folder: certificates, admitted keys, the gate, bundles, and the processes of a SuperLink."""
