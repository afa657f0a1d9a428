"""The coordinator: its folder and processes, admitted sites, bundles and studies."""
